// What is said of a step, and of one number: its formula, why that holds, and its arithmetic.

const Panel = (() => {
  const same = (a, b) => Boolean(a && b) && JSON.stringify(a) === JSON.stringify(b);

  function nameOf(model, place) {
    if (place.kind === "loss") return "l";
    if (place.kind !== "parameter") return `${model.nodes[place.node].symbol}[${place.k}]`;
    const tensor = model.tensors[model.nodes[place.node].parameters[place.name]], columns = tensor.shape[1];
    const at = columns ? `${Math.floor(place.index / columns)},${place.index % columns}` : place.index;
    return `${tensor.symbol.split(" = ")[0]}[${at}]`;
  }

  // Lines of a place: [name, arithmetic, result]; of a gradient and of a parameter the value comes first.
  function linesOf({ model, result, sample }, place) {
    const name = nameOf(model, place);
    if (place.kind === "loss") return [[name, Worked.lossValue(model, result), result.loss]];
    if (place.kind === "parameter") {
      const tensor = model.tensors[model.nodes[place.node].parameters[place.name]];
      const worked = Worked.parameter(model, result, place.node, place.name, place.index);
      const grad = result.parameters[place.node][place.name][place.index];
      return [[name, { text: "" }, tensor.data[place.index]], [`grad ${name}`, worked, grad]];
    }
    const { node, k } = place, at = sample * model.nodes[node].width + k;
    const lines = [[name, Worked.value(model, result, node, sample, k), result.values[node][at]]];
    if (place.kind === "grad") {
      lines.push([`grad ${name}`, Worked.gradient(model, result, node, sample, k), result.grads[node][at]]);
    }
    return lines;
  }

  // A place and its numbers, for those who hear the page.
  const spoken = (state, place) =>
    linesOf(state, place).map(([name, , number]) => `${name} ${Worked.shown(number)}`).join(", ");

  // The step that computes a place's number: the gradient, where a place is one's or a parameter's.
  function stepOf({ model, step }, place) {
    if (!place) return model.steps[step - 1];
    const { kind, node, name } = place;
    return model.steps.find((s) => {
      if (kind === "loss") return s.phase === "loss";
      if (kind === "parameter") return s.parameter === name && model.nodes[s.node].owner === node;
      return s.phase === (kind === "value" ? "forward" : "backward") && s.node === node && !s.parameter;
    });
  }

  // The number whose arithmetic is shown of a step when none is selected: the first.
  function placeOf({ model }, step) {
    if (!step) return null;
    if (step.phase === "loss") return { kind: "loss" };
    if (!step.parameter) return { kind: step.phase === "forward" ? "value" : "grad", node: step.node, k: 0 };
    return { kind: "parameter", node: model.nodes[step.node].owner, name: step.parameter, index: 0 };
  }

  function lineOf([name, worked, number]) {
    const result = Worked.shown(number), line = element("p", { class: "line" }, element("b", {}, name));
    if (worked.text && worked.text !== result && worked.text !== "given") line.append(` = ${worked.text}`);
    line.append(" = ", element("b", {}, result));
    if (worked.where?.length) line.append(element("small", {}, ` with ${worked.where.join(", ")}`));
    return line;
  }

  function show(state) {
    const step = stepOf(state, state.selected), input = state.selected && state.model.nodes[state.selected.node];
    const where = (step?.where ?? []).map((line) => element("div", {}, line));
    byId("symbol").textContent = step?.symbol ?? input?.symbol ?? "Given";
    byId("formula").replaceChildren(...(step ? [`${step.symbol} = ${step.formula}`, ...where] : []));
    const given = input ? "This is an input." : "Input, target and weights: go on step by step.";
    byId("why").textContent = step?.why ?? given;
    const place = state.selected ?? placeOf(state, step);
    byId("detail").replaceChildren(...(place ? linesOf(state, place).map(lineOf) : []));
  }

  return { same, spoken, show };
})();
