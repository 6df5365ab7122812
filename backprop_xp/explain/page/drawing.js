// The net as an SVG: a column of neurons for each node, from left to right, with edges by weight.
//
// `state` is {model, result, sample, step, selected}; what a step has not reached yet is pale.

const Drawing = (() => {
  const SVG = "http://www.w3.org/2000/svg", WIDTH = 72, TOP = 34, MARGIN = 12, LOSS = 92;

  function make(tag, attributes = {}, text = null) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== null) element.textContent = text;
    return element;
  }

  const shares = (array) => {
    const most = array.reduce((m, x) => (Number.isFinite(x) ? Math.max(m, Math.abs(x)) : m), 0) || 1;
    return (x) => (Number.isFinite(x) ? Math.abs(x) / most : 1);
  };
  const sign = (x) => (x < 0 ? "negative" : "positive");

  // Which of a node's numbers are drawn.
  const drawn = (model, node) => Math.min(node.width, model.most);

  // The whole drawing; `pick(place)` makes the group of a place that can be selected.
  function draw(state, reached, pick) {
    const { model, result, sample } = state, { edges } = model;
    const height = (i) => drawn(model, model.nodes[i]) * edges.row;
    const x = (i) => MARGIN + edges.at[i][0], middle = (i) => TOP + edges.at[i][1];
    const y = (i, k) => middle(i) - height(i) / 2 + k * edges.row + edges.row / 2;
    const room = (node) => (node.width > model.most ? 20 : 0);
    const bottom = Math.max(...model.nodes.map((node, i) => y(i, drawn(model, node)) + room(node)));
    const width = MARGIN * 2 + edges.columns * edges.column + LOSS;
    const svg = make("svg", {
      viewBox: `0 0 ${width} ${bottom + MARGIN}`, width, height: bottom + MARGIN, role: "group",
      "aria-label": `The net ${model.title}: neurons from left to right, with values and gradients up to this step`,
    });
    const lines = make("g", { class: "edges" }), boxes = make("g", { class: "neurons" });
    svg.append(lines, boxes);
    for (const path of edges.paths) drawEdges(path);
    model.nodes.forEach((node, i) => drawColumn(node, i));
    drawLoss();
    return svg;

    function drawColumn(node, i) {
      const known = reached.value(i), graded = reached.grad(i), array = result.values[i], grads = result.grads[i];
      const row = (a) => a.subarray(sample * node.width, (sample + 1) * node.width);
      const value = row(array), grad = row(grads), size = shares(value), slope = shares(grad);
      const head = make("g", { class: `head${reached.now(i) ? " now" : ""}` });
      const label = node.op === "linear" || node.op === "input" ? node.symbol : `${node.symbol} ${node.called}`;
      const words = label.length > 17 ? `${label.slice(0, 16)}…` : label;
      head.append(make("title", {}, `${node.symbol}: ${node.called}, ${node.width} numbers`));
      const above = y(i, 0) - edges.row / 2 - 4;
      head.append(make("text", { x: x(i) + WIDTH / 2, y: above, "text-anchor": "middle" }, words));
      boxes.append(head);
      for (let k = 0; k < drawn(model, node); k++) {
        const group = pick({ kind: graded ? "grad" : "value", node: i, k });
        const top = y(i, k) - edges.height / 2;
        group.classList.add("neuron", ...(known ? [] : ["pale"]), ...(reached.now(i) ? ["now"] : []));
        const box = { x: x(i), y: top, width: WIDTH, height: edges.height, rx: 6 };
        group.append(make("rect", { ...box, class: "paper" }));
        if (known) {
          const opacity = 0.08 + 0.4 * size(value[k]);
          group.append(make("rect", { ...box, class: `fill ${sign(value[k])}`, "fill-opacity": opacity }));
        }
        const strength = graded ? 1 + 2.5 * slope(grad[k]) : 1;
        group.append(make("rect", { ...box, class: `ring ${graded ? sign(grad[k]) : ""}`, "stroke-width": strength }));
        const center = { x: x(i) + WIDTH / 2, "text-anchor": "middle" };
        const said = (at, name, number) =>
          make("text", { ...center, y: top + at, class: name }, Worked.shown(number, 3));
        if (known) group.append(said(graded ? 16 : 24, "value", value[k]));
        if (graded) group.append(said(31, `grad ${sign(grad[k])}`, grad[k]));
        boxes.append(group);
      }
      if (node.width > model.most) {
        const more = { x: x(i) + WIDTH / 2, y: y(i, model.most) - 6, "text-anchor": "middle", class: "more" };
        boxes.append(make("text", more, `and ${node.width - model.most} more`));
      }
    }

    function drawEdges({ from, to, points }) {
      const source = model.nodes[from], node = model.nodes[to], on = reached.edge(to);
      if (points.length || ["layer_norm", "softmax", "own"].includes(node.op)) {
        drawRibbon(from, to, points, on);
      } else if (node.op === "linear") drawWeights(from, to, on);
      else drawPairs(from, to, on);
    }

    // One line for all numbers: of edges that skip columns, and where every number depends on all.
    function drawRibbon(from, to, points, on) {
      const between = points.map(([px, py]) => [MARGIN + px + WIDTH / 2, TOP + py]);
      const stops = [[x(from) + WIDTH, middle(from)], ...between, [x(to), middle(to)]];
      let d = `M${stops[0][0]},${stops[0][1]}`;
      for (let i = 1; i < stops.length; i++) {
        const [ax, ay] = stops[i - 1], [bx, by] = stops[i], half = (ax + bx) / 2;
        d += ` C${half},${ay} ${half},${by} ${bx},${by}`;
      }
      lines.append(make("path", { d, class: `ribbon${on ? " on" : ""}` }));
    }

    function drawWeights(from, to, on) {
      const source = model.nodes[from], node = model.nodes[to];
      const t = node.parameters.weight, weight = model.tensors[t].data, size = shares(weight);
      for (let k = 0; k < drawn(model, node); k++) {
        for (let j = 0; j < drawn(model, source); j++) {
          const index = k * source.width + j, w = weight[index];
          const d = `M${x(from) + WIDTH},${y(from, j)} L${x(to)},${y(to, k)}`;
          const group = pick({ kind: "parameter", node: node.owner, name: "weight", index }, false);
          group.classList.add("weight", ...(on ? ["on"] : []));
          group.append(make("path", { d, class: "reach" }));
          const width = 0.4 + 3.2 * size(w), opacity = 0.15 + 0.75 * size(w);
          group.append(make("path", { d, class: sign(w), "stroke-width": width, "stroke-opacity": opacity }));
          lines.append(group);
        }
      }
    }

    function drawPairs(from, to, on) {
      const source = model.nodes[from], node = model.nodes[to];
      const start = node.op !== "concatenate" ? 0
        : node.inputs.slice(0, node.inputs.indexOf(from)).reduce((sum, j) => sum + model.nodes[j].width, 0);
      for (let k = 0; k < drawn(model, source) && start + k < drawn(model, node); k++) {
        const d = `M${x(from) + WIDTH},${y(from, k)} L${x(to)},${y(to, start + k)}`;
        lines.append(make("path", { d, class: `pair${on ? " on" : ""}` }));
      }
    }

    function drawLoss() {
      const last = model.nodes.length - 1, at = MARGIN + edges.columns * edges.column, top = middle(last);
      for (let k = 0; k < drawn(model, model.nodes[last]); k++) {
        const d = `M${x(last) + WIDTH},${y(last, k)} L${at},${top}`;
        lines.append(make("path", { d, class: `pair${reached.lossNow ? " on" : ""}` }));
      }
      const group = pick({ kind: "loss" });
      group.classList.add("neuron", "total", ...(reached.loss ? [] : ["pale"]), ...(reached.lossNow ? ["now"] : []));
      const box = { x: at, y: top - 24, width: LOSS - 14, height: 48, rx: 24 };
      group.append(make("rect", { ...box, class: "paper" }), make("rect", { ...box, class: "ring" }));
      const center = { x: at + (LOSS - 14) / 2, "text-anchor": "middle" };
      group.append(make("text", { ...center, y: top - 5, class: "grad" }, "loss"));
      const number = Worked.shown(result.loss);
      if (reached.loss) group.append(make("text", { ...center, y: top + 12, class: "value" }, number));
      boxes.append(group);
    }
  }

  // The losses of a run, as a line.
  function history(svg, losses) {
    svg.querySelectorAll(":not(title)").forEach((element) => element.remove());
    const known = losses.filter(Number.isFinite);
    if (known.length < 2) return;
    const low = Math.min(...known), high = Math.max(...known), span = high - low || 1;
    const points = losses.map((l, i) => `${2 + (116 * i) / (losses.length - 1)},${27 - (24 * (l - low)) / span}`);
    svg.append(make("polyline", { points: points.join(" "), class: "curve" }));
    svg.querySelector("title").textContent = `Losses so far: ${losses.map((l) => Worked.shown(l)).join(", ")}`;
  }

  return { draw, make, history };
})();
