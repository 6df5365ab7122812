// The page: its state and its controls.

(() => {
  const model = Passes.decoded(JSON.parse(byId("model").textContent));
  // what Reset puts back
  const given = {
    tensors: model.tensors.map((tensor) => tensor.data.slice()), y: model.y?.slice() ?? null,
    inputs: model.nodes.map((node) => node.data?.slice()),
  };
  // `step` counts the steps that are shown; `selected` is the place that is pointed at, or the one that was `kept`
  const state = { model, result: Passes.run(model), sample: 0, step: 0, selected: null, kept: null, losses: [] };

  // ---- what the steps so far have reached --------------------------------------------------------------------------

  function reached() {
    const done = model.steps.slice(0, state.step), now = done.at(-1), last = model.nodes.length - 1;
    const values = new Set(done.filter((s) => s.phase === "forward").map((s) => s.node));
    const grads = new Set(done.filter((s) => s.phase === "backward" && !s.parameter).map((s) => s.node));
    const ofValue = now?.phase === "backward" && !now.parameter; // the step is the gradient in a value
    const isNow = (i) => Boolean(now) && now.phase !== "loss" && now.node === i;
    return {
      value: (i) => model.nodes[i].op === "input" || values.has(i), grad: (i) => grads.has(i), now: isNow,
      loss: done.some((s) => s.phase === "loss"), lossNow: now?.phase === "loss" || (ofValue && now.node === last),
      // the edges into node i: in its own step, or where a gradient comes back from it
      edge: (i) => (ofValue ? model.nodes[i].inputs.includes(now.node) : isNow(i)),
    };
  }

  // ---- places that can be selected ---------------------------------------------------------------------------------

  // The group of a place, which shows its arithmetic when it is pointed at, and keeps it when it is clicked.
  function pick(place, inOrder = true) {
    const group = Drawing.make("g", { role: "button", tabindex: -1 });
    if (inOrder) group.setAttribute("aria-label", Panel.spoken(state, place));
    else group.setAttribute("aria-hidden", "true"); // weights have fields of their own
    group.place = place;
    group.classList.toggle("kept", Panel.same(place, state.kept));
    group.addEventListener("pointerenter", () => select(place));
    group.addEventListener("pointerleave", () => select(state.kept));
    group.addEventListener("focus", () => select(place));
    group.addEventListener("click", () => keep(place));
    return group;
  }

  function select(place) {
    state.selected = place;
    Panel.show(state);
  }

  function keep(place) {
    state.kept = Panel.same(state.kept, place) ? null : place;
    for (const group of byId("net").querySelectorAll("[role=button]")) {
      group.classList.toggle("kept", Panel.same(group.place, state.kept));
    }
    select(place);
  }

  // ---- showing -----------------------------------------------------------------------------------------------------

  function showNet() {
    const net = byId("net"), focused = document.activeElement?.place, { scrollLeft, scrollTop } = net;
    net.replaceChildren(Drawing.draw(state, reached(), pick));
    Object.assign(net, { scrollLeft, scrollTop });
    const groups = [...net.querySelectorAll(".neuron")];
    const again = focused && groups.find((g) => g.place.node === focused.node && g.place.k === focused.k);
    (again ?? groups[0]).setAttribute("tabindex", 0);
    again?.focus({ preventScroll: true });
  }

  function showSteps() {
    const now = model.steps[state.step - 1], end = model.steps.length;
    const phase = { forward: "Forward", loss: "The loss", backward: "Backward" }[now?.phase];
    const said = now ? `${phase}: ${now.symbol} (step ${state.step} of ${end})` : "Given: input, target, weights";
    byId("phase").textContent = said;
    Object.assign(byId("scrubber"), { max: end, value: state.step, ariaValueText: said });
    byId("first").disabled = byId("back").disabled = state.step === 0;
    byId("last").disabled = byId("forward").disabled = state.step === end;
    byId("steps").querySelectorAll("button").forEach((button, i) => {
      button.setAttribute("aria-current", i + 1 === state.step ? "step" : "false");
    });
  }

  function showAll() {
    showSteps();
    showNet();
    Panel.show(state);
    byId("loss").textContent = Worked.shown(state.result.loss, 6);
    Drawing.history(byId("history"), state.losses);
    Numbers.heatMap(state, (sample) => {
      state.sample = sample;
      showAll();
      showEditors();
    });
  }

  const showEditors = () => Numbers.editors(state, select, () => follow([]));

  // Compute anew after a change, and go on from these losses.
  function follow(losses) {
    state.result = Passes.run(model);
    state.losses = [...losses, state.result.loss];
    showAll();
  }

  function goTo(step) {
    state.step = Math.max(0, Math.min(model.steps.length, step));
    state.kept = state.selected = null;
    showAll();
    bringIntoView();
  }

  // Scroll the drawing, not the page, to where the step is.
  function bringIntoView() {
    const net = byId("net"), frame = net.getBoundingClientRect();
    const box = net.querySelector(".now")?.getBoundingClientRect();
    if (box && (box.left < frame.left || box.right > frame.right)) {
      net.scrollLeft += box.left - frame.left - (frame.width - box.width) / 2;
    }
    if (box && (box.top < frame.top || box.bottom > frame.bottom)) net.scrollTop += box.top - frame.top - 40;
  }

  // ---- controls ----------------------------------------------------------------------------------------------------

  function descend() {
    const rate = byId("rate").valueAsNumber;
    if (!(rate >= 0)) return byId("rate").focus();
    Passes.descend(model, state.result, rate);
    follow(state.losses);
    return showEditors();
  }

  function reset() {
    model.tensors.forEach((tensor, t) => (tensor.data = given.tensors[t].slice()));
    model.nodes.forEach((node, i) => node.data?.set(given.inputs[i]));
    model.y?.set(given.y);
    follow([]);
    showEditors();
  }

  // Arrows within the net: to the next neuron in that direction.
  function move(from, key) {
    const center = (group) => {
      const box = group.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    const [x, y] = center(from), across = key === "ArrowLeft" || key === "ArrowRight";
    const sign = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
    let best = null, least = Infinity;
    for (const group of byId("net").querySelectorAll(".neuron")) {
      const [gx, gy] = center(group), along = sign * (across ? gx - x : gy - y);
      const aside = Math.abs(across ? gy - y : gx - x), distance = across ? along * 4 + aside : along;
      if (along > 4 && (across || aside < 4) && distance < least) [best, least] = [group, distance];
    }
    if (!best) return;
    from.setAttribute("tabindex", -1);
    best.setAttribute("tabindex", 0);
    best.focus();
  }

  // In the net Enter keeps and arrows move; elsewhere, but in fields, left and right are steps.
  document.addEventListener("keydown", (event) => {
    const inNet = event.target.closest?.("#net [role=button]"), { key } = event;
    const steps = { ArrowRight: state.step + 1, ArrowLeft: state.step - 1, Home: 0, End: model.steps.length };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (inNet && ["Enter", " "].includes(key)) keep(inNet.place);
    else if (inNet && key.startsWith("Arrow")) move(inNet, key);
    else if (key in steps && !event.target.closest?.("input, summary")) goTo(steps[key]);
    else return;
    event.preventDefault();
  });

  byId("subtitle").textContent = model.title;
  byId("live").textContent = model.live
    ? "Change an input, the target or a weight: everything above follows."
    : "Some of this net is Python code, which a page can't run: its numbers are those that the library computed.";
  byId("rate").value = model.lr;
  byId("descend").disabled = byId("rate").disabled = byId("reset").disabled = !model.live;
  byId("first").addEventListener("click", () => goTo(0));
  byId("back").addEventListener("click", () => goTo(state.step - 1));
  byId("forward").addEventListener("click", () => goTo(state.step + 1));
  byId("last").addEventListener("click", () => goTo(model.steps.length));
  byId("scrubber").max = model.steps.length;
  byId("scrubber").addEventListener("input", (event) => goTo(event.target.valueAsNumber));
  byId("descend").addEventListener("click", descend);
  byId("reset").addEventListener("click", reset);
  model.steps.forEach((step, i) => {
    const button = element("button", { type: "button" }, `${step.symbol} = ${step.formula}`);
    button.addEventListener("click", () => {
      goTo(i + 1);
      byId("controls").scrollIntoView();
    });
    byId("steps").append(element("li", {}, button));
  });
  state.losses.push(state.result.loss);
  showEditors();
  showAll();
  window.backprop = { state, goTo }; // for tests, and for the curious
})();
