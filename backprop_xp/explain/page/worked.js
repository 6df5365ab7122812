// The arithmetic of any one number of the net, in words: "19.03 * 0.4965 * (1 - 0.4965) = 4.758".
//
// A place is {kind: "value" | "grad", node, k}, {kind: "parameter", node, name, index}, or {kind: "loss"}.

const Worked = (() => {
  const MOST_TERMS = 12, FIRST_TERMS = 4, SUM = 1, PRODUCT = 2;

  // Four digits as Python's .4g writes them; of 0.9985 so many that 1 minus it has four, too.
  function shown(value, digits = 4) {
    if (!Number.isFinite(value)) return String(value).replace("Infinity", "inf");
    if (value === 0) return "0";
    const exponent = Number(value.toExponential(digits - 1).split("e")[1]);
    if (exponent < -4 || exponent >= digits) {
      return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace(/e([+-])(\d)$/, "e$10$2");
    }
    const fixed = value.toFixed(Math.max(0, digits - 1 - exponent));
    return fixed.includes(".") ? fixed.replace(/\.?0+$/, "") : fixed;
  }

  function number(value, tight = PRODUCT) {
    const rest = 1 - Math.abs(value);
    const text = shown(value, rest > 1e-8 && rest < 0.1 ? 4 - Math.ceil(Math.log10(rest)) : 4);
    return text.startsWith("-") && tight > SUM ? `(${text})` : text;
  }

  const product = (...factors) => factors.map((x) => number(x)).join(" * ");

  function total(terms) {
    if (terms.length === 1 && /^\([^()* ]*\)$/.test(terms[0])) return terms[0].slice(1, -1); // a number alone
    if (terms.length <= MOST_TERMS) return terms.join(" + ") || "0";
    return `${terms.slice(0, FIRST_TERMS).join(" + ")} + ... (${terms.length - FIRST_TERMS} more)`;
  }

  function inProduct(text) {
    let depth = 0, outside = "";
    for (const character of text) {
      depth += (character === "(") - (character === ")");
      outside += depth ? "." : character;
    }
    return / [+-] | if /.test(outside) || outside.startsWith("-") ? `(${text})` : text;
  }

  // A written formula with numbers in its slots, and what names in it stand for.
  function filled(form, numbers) {
    const join = (parts) => parts.map((p) => (typeof p === "string" ? p : number(numbers[p[0]], p[1]))).join("");
    const where = form.where.map(([name, parts]) => `${name} = ${join(parts)}`);
    return { text: join(form.parts), where };
  }

  const column = (array, width, k) => [...array].filter((_, i) => i % width === k);

  // Of normalisations: mean and scale of one number, and what the gradient loses.
  function normal(model, result, i, s, k) {
    const node = Passes.withParameters(model, model.nodes[i]), z = result.values[model.nodes[i].inputs[0]];
    const { normal: n, scale, group } = Passes.normalisation.normal(node, z);
    const at = s * node.width + k;
    const mean = z[at] - n[at] / scale[at];
    return { node, n, scale: scale[at], mean, group, at, z: z[at] };
  }

  // ---- values ------------------------------------------------------------------------------------------------------

  function value(model, result, i, s, k) {
    const node = model.nodes[i], inputs = node.inputs.map((j) => result.values[j]);
    const widths = node.inputs.map((j) => model.nodes[j].width);
    const of = (position) => inputs[position][s * widths[position] + k];
    const own = (name) => model.tensors[node.parameters[name]].data;
    switch (node.op) {
      case "input": return { text: "given" };
      case "linear": {
        const weight = own("weight"), width = widths[0];
        const terms = [...Array(width).keys()].map((j) => product(weight[k * width + j], inputs[0][s * width + j]));
        if ("bias" in node.parameters) terms.push(number(own("bias")[k]));
        return { text: total(terms) };
      }
      case "activation": {
        const fn = model.functions[node.fn];
        return filled(fn.value, { t: of(0), ...fn.parameters });
      }
      case "add": return { text: total(inputs.map((_, position) => number(of(position)))) };
      case "multiply": return { text: product(...inputs.map((_, position) => of(position))) };
      case "concatenate": return { text: number(result.values[i][s * node.width + k], SUM) };
      case "softmax": {
        const { log } = Passes.shares(inputs[0], s * node.width, node.width);
        return { text: `exp(${number(of(0), SUM)} - ${number(log)})` };
      }
      case "dropout":
        return { text: node.kept ? product(of(0), node.kept[s * node.width + k]) : number(of(0), SUM) };
      case "layer_norm": case "batch_norm": {
        const { scale, mean, z } = normal(model, result, i, s, k);
        const inner = `(${number(z, SUM)} - ${number(mean)})`;
        return { text: `${number(own("gain")[k])} * ${inner} * ${number(scale)} + ${number(own("bias")[k])}` };
      }
      default: return { text: "" };
    }
  }

  // ---- gradients ---------------------------------------------------------------------------------------------------

  // What a node sends back to number k of its input at this position.
  function passed(model, result, i, position, s, k) {
    const node = model.nodes[i], grad = result.grads[i], width = model.nodes[node.inputs[position]].width;
    const g = grad[s * node.width + k], inputs = node.inputs.map((j) => result.values[j]);
    switch (node.op) {
      case "linear": {
        const weight = model.tensors[node.parameters.weight].data;
        const rows = [...Array(node.width).keys()];
        return { text: total(rows.map((row) => product(weight[row * width + k], grad[s * node.width + row]))) };
      }
      case "activation": {
        const fn = model.functions[node.fn], at = s * node.width + k;
        const slope = filled(fn.grad, { t: inputs[0][at], z: result.values[i][at], ...fn.parameters });
        return { text: `${number(g)} * ${inProduct(slope.text)}`, where: slope.where };
      }
      case "add": return { text: number(g, SUM) };
      case "multiply": {
        const others = inputs.filter((_, other) => other !== position).map((a) => a[s * width + k]);
        return { text: product(g, ...others) };
      }
      case "concatenate": {
        const start = node.inputs.slice(0, position).reduce((sum, j) => sum + model.nodes[j].width, 0);
        return { text: number(grad[s * node.width + start + k], SUM) };
      }
      case "softmax": {
        const at = s * width, p = result.values[i].subarray(at, at + width);
        const mean = p.reduce((sum, x, j) => sum + x * grad[at + j], 0);
        return { text: `${number(p[k])} * (${number(g, SUM)} - ${number(mean)})` };
      }
      case "dropout": return { text: node.kept ? product(g, node.kept[s * node.width + k]) : number(g, SUM) };
      case "layer_norm": case "batch_norm": {
        const { n, scale, group, at } = normal(model, result, i, s, k);
        const gain = model.tensors[node.parameters.gain].data, h = grad.map((x, j) => x * gain[j % node.width]);
        if (!group) return { text: product(scale, gain[k], g) };
        const members = [...h.keys()].filter((j) => group(j) === group(at));
        const mean = members.reduce((sum, j) => sum + h[j], 0) / members.length;
        const along = members.reduce((sum, j) => sum + h[j] * n[j], 0) / members.length;
        const inner = `${number(h[at], SUM)} - ${number(mean)} - ${number(n[at])} * ${number(along)}`;
        return { text: `${number(scale)} * (${inner})` };
      }
      default: return { text: "" };
    }
  }

  function timesFactor(model, s, text) {
    const factor = Passes.factor(model, s);
    return factor === 1 ? text : `${number(factor)} * ${inProduct(text)}`;
  }

  // The derivative of the loss in output k of a sample.
  function ofLoss(model, result, s, k) {
    const { loss } = model, last = model.nodes.length - 1, width = model.nodes[last].width;
    const z = result.values[last];
    if (loss.kind === "formula") {
      const at = s * width + k;
      const numbers = { ...Passes.parametersAt(loss.fn, k), z: z[at], y: model.y ? model.y[at] : 0 };
      const slope = filled(loss.fn.grad, numbers);
      return { text: timesFactor(model, s, slope.text), where: slope.where };
    }
    if (loss.kind === "softmax") {
      const row = z.subarray(s * width, (s + 1) * width), most = Math.max(...row);
      const sum = row.reduce((total, x) => total + Math.exp(x - most), 0);
      const whole = [...row.keys()].reduce((total, j) => total + Passes.probability(model, s, j, width), 0);
      const times = Math.abs(whole - 1) < 1e-9 ? "" : `${number(whole)} * `;
      const y = Passes.probability(model, s, k, width);
      return { text: timesFactor(model, s, `${times}${number(Math.exp(row[k] - most) / sum)} - ${number(y)}`) };
    }
    return { text: "" };
  }

  function gradient(model, result, i, s, k) {
    const parts = i === model.nodes.length - 1 ? [ofLoss(model, result, s, k)] : [];
    model.nodes.forEach((user, u) => {
      user.inputs.forEach((j, position) => {
        if (j === i) parts.push(passed(model, result, u, position, s, k));
      });
    });
    return { text: parts.map((p) => p.text).join(" + "), where: parts.flatMap((p) => p.where ?? []) };
  }

  // The gradient in number `index` of a parameter, from all samples and all nodes that take it.
  function parameter(model, result, owner, name, index) {
    const terms = [];
    let known = true;
    model.nodes.forEach((node, i) => {
      if (node.owner !== owner) return;
      const grad = result.grads[i], z = result.values[node.inputs[0]];
      for (let s = 0; s < model.samples; s++) {
        if (node.op === "linear" && name === "weight") {
          const width = model.nodes[node.inputs[0]].width, row = Math.floor(index / width);
          terms.push(product(grad[s * node.width + row], z[s * width + (index % width)]));
        } else if (name === "bias") terms.push(number(grad[s * node.width + index]));
        else if (name === "gain") {
          const at = s * node.width + index;
          terms.push(product(grad[at], normal(model, result, i, s, index).n[at]));
        } else known = false;
      }
    });
    return { text: known ? total(terms) : "" };
  }

  // The loss as a sum over samples and outputs.
  function lossValue(model, result) {
    const { loss } = model, last = model.nodes.length - 1, width = model.nodes[last].width, z = result.values[last];
    if (loss.kind === "formula" && !loss.fn.value.where.length) {
      const terms = [...z.keys()].slice(0, MOST_TERMS + 1).map((at) => {
        const numbers = { ...Passes.parametersAt(loss.fn, at % width), z: z[at], y: model.y ? model.y[at] : 0 };
        return timesFactor(model, Math.floor(at / width), inProduct(filled(loss.fn.value, numbers).text));
      });
      return { text: total([...terms, ...Array(Math.max(0, z.length - terms.length)).fill("")]) };
    }
    return { text: "" };
  }

  return { shown, number, value, gradient, parameter, lossValue };
})();
