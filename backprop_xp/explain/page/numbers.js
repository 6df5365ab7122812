// Tables: the fields in which inputs, targets and parameters are changed, and the batch as a heat map.

const Numbers = (() => {
  const MOST_COLOUR = 55; // percent of a cell of the heat map: text on it stays readable

  // Fields for numbers of an array, which is changed in place: `at.select(index)` shows one, `at.changed()` follows.
  function table(caption, array, columns, enabled, at, nameOf) {
    const rows = [];
    for (let r = 0; r * columns < array.length; r++) {
      const cells = [];
      for (let c = 0; c < columns; c++) {
        const index = r * columns + c, name = nameOf(r, c);
        const field = element("input", { type: "number", step: "any", "aria-label": name, title: name });
        field.value = Number(array[index].toPrecision(6));
        field.disabled = !enabled;
        field.addEventListener("focus", () => at.select(index));
        field.addEventListener("change", () => {
          const number = field.valueAsNumber; // NaN where nothing, or no number, stands there
          if (Number.isFinite(number)) array[index] = at.fitting ? at.fitting(number) : number;
          field.value = Number(array[index].toPrecision(6));
          at.changed();
        });
        cells.push(element("td", {}, field));
      }
      rows.push(element("tr", {}, ...cells));
    }
    const made = element("table", { class: "fields" }, element("caption", {}, caption), element("tbody", {}, ...rows));
    return element("div", { class: "scroll" }, made);
  }

  // Inputs and targets of the sample that is shown, then every parameter, folded.
  function editors({ model, sample }, select, changed) {
    const place = byId("editors"), of = model.samples > 1 ? ` of sample ${sample}` : "";
    const open = [...place.querySelectorAll("details[open]")].map((fold) => fold.dataset.name);
    const part = (array, width) => array.subarray(sample * width, (sample + 1) * width);
    const given = element("div", { class: "given" });
    model.nodes.forEach((node, i) => {
      if (node.op !== "input") return;
      const at = { changed, select: (k) => select({ kind: "value", node: i, k }) };
      const named = (r, c) => `${node.symbol}[${c}]`;
      given.append(table(node.symbol + of, part(node.data, node.width), node.width, model.live, at, named));
    });
    if (model.y) given.append(target(model, part, of, changed));
    place.replaceChildren(given, ...model.tensors.map((tensor) => fold(model, tensor, open, select, changed)));
  }

  function target(model, part, of, changed) {
    const outputs = model.nodes.at(-1).width, at = { changed, select: () => {} };
    if (!model.classes) return table(`y${of}`, part(model.y, outputs), outputs, model.live, at, (r, c) => `y[${c}]`);
    at.fitting = (number) => Math.max(0, Math.min(outputs - 1, Math.round(number)));
    return table(`y, the class${of}`, part(model.y, 1), 1, model.live, at, () => "class");
  }

  // A parameter, whose fields are made when it is opened.
  function fold(model, tensor, open, select, changed) {
    const columns = tensor.shape.length > 1 ? tensor.shape[1] : tensor.data.length;
    const symbol = tensor.symbol.split(" = ")[0]; // of several places, the first
    const node = model.nodes.findIndex((each) => each.name === tensor.node);
    const at = { changed, select: (index) => select({ kind: "parameter", node, name: tensor.name, index }) };
    const named = (r, c) => `${symbol}[${tensor.shape.length > 1 ? `${r},${c}` : c}]`;
    const summary = element("summary", {}, `${tensor.symbol}, ${tensor.shape.join(" x ")}`);
    const made = element("details", { "data-name": tensor.symbol }, summary);
    const fill = () => {
      if (made.open && made.children.length < 2) made.append(table("", tensor.data, columns, model.live, at, named));
    };
    made.addEventListener("toggle", fill);
    made.open = open.includes(tensor.symbol);
    fill();
    return made;
  }

  // The norms of gradients, node by sample; a click on a sample's number chooses it.
  function heatMap({ model, result, sample }, choose) {
    if (model.samples < 2) return;
    byId("heat").hidden = false;
    const samples = [...Array(model.samples).keys()];
    const norm = (grads, width, s) => Math.hypot(...grads.subarray(s * width, (s + 1) * width));
    const norms = model.nodes.map((node, i) => samples.map((s) => norm(result.grads[i], node.width, s)));
    const sizes = norms.flat().filter((x) => x > 0 && Number.isFinite(x)).map(Math.log10);
    const low = Math.min(...sizes), high = Math.max(...sizes);
    const head = samples.map((s) => {
      const button = element("button", { type: "button", "aria-pressed": s === sample }, String(s));
      button.addEventListener("click", () => choose(s));
      return element("th", { scope: "col" }, button);
    });
    const body = norms.map((row, i) => {
      const cells = row.map((x, s) => {
        const cell = element("td", { title: `sample ${s}: ${Worked.shown(x)}` }, Worked.shown(x, 2));
        const share = x > 0 ? Math.min(1, (Math.log10(x) - low) / (high - low || 1)) : 0;
        cell.style.setProperty("--share", `${(MOST_COLOUR * share).toFixed(0)}%`);
        return cell;
      });
      return element("tr", {}, element("th", { scope: "row" }, `grad ${model.nodes[i].symbol}`), ...cells);
    });
    const top = element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "sample"), ...head));
    byId("heatmap").replaceChildren(element("caption", {}, "Norms of gradients"), top, element("tbody", {}, ...body));
  }

  return { editors, heatMap };
})();
