// The page's own forward and backward pass, in double precision, over a batch of `samples` rows.
//
// A value is a Float64Array of samples x width numbers, a sample after another. `model` is what html_page.py wrote:
// nodes in topological order, parameters, functions as lists of steps, the loss, inputs and targets. Everything here is
// computed from it anew whenever something in it changes.

const Passes = (() => {
  // ---- formulas: the functions that kernels and NumPy have, for one number -----------------------------------------

  const polynomial = (x, coefficients) => coefficients.reduce((sum, c) => sum * x + c, 0);
  const HALF_ROOT = 0.7071067811865475244, PER_ROOT_PI = 0.56418958354775628695;
  const PER_ROOT_2PI = 0.39894228040143267794;
  let cody = null; // W. J. Cody's coefficients, from formulas/special.py

  const erfSmall = (x) => (x * polynomial(x * x, cody.A)) / polynomial(x * x, cody.B);
  const gauss = (x, factor) => {
    const size = Math.min(Math.abs(x), 60), high = Math.trunc(size * 65536) / 65536;
    return Math.exp(-factor * high * high) * Math.exp(-factor * (size - high) * (size + high));
  };
  const erfcPositive = (x, root, factor) => {
    const middle = Math.min(x, 4), u = 1 / Math.max(x, 4) ** 2;
    const far = (PER_ROOT_PI - (u * polynomial(u, cody.P)) / polynomial(u, cody.Q)) / x;
    return gauss(root, factor) * (x <= 4 ? polynomial(middle, cody.C) / polynomial(middle, cody.D) : far);
  };
  const erf = (x) => {
    const size = Math.abs(x);
    return size <= 0.46875 ? erfSmall(x) : Math.sign(x) * (1 - erfcPositive(size, size, 1));
  };
  const normalCdf = (t) => {
    const x = t * HALF_ROOT, size = Math.abs(x);
    if (size <= 0.46875) return 0.5 + 0.5 * erfSmall(x);
    const tail = 0.5 * erfcPositive(size, t, 0.5);
    return t < 0 ? tail : 1 - tail;
  };

  const OPERATIONS = {
    add: (a, b) => a + b, subtract: (a, b) => a - b, multiply: (a, b) => a * b, divide: (a, b) => a / b,
    negative: (a) => -a, less: (a, b) => a < b, less_equal: (a, b) => a <= b, greater: (a, b) => a > b,
    greater_equal: (a, b) => a >= b, equal: (a, b) => a === b, not_equal: (a, b) => a !== b,
    where: (condition, a, b) => (condition ? a : b), abs: Math.abs, sign: Math.sign, sqrt: Math.sqrt, exp: Math.exp,
    expm1: Math.expm1, log: Math.log, log1p: Math.log1p, sin: Math.sin, cos: Math.cos,
    tanh: Math.tanh, erf, normal_cdf: normalCdf,
    normal_pdf: (t) => PER_ROOT_2PI * gauss(t, 0.5), minimum: Math.min, maximum: Math.max,
  };

  // One output of a formula, "value" or "grad", at these numbers by the names of its variables and parameters.
  function evaluate(formula, output, numbers) {
    const results = [];
    for (let i = 0; i <= formula[output]; i++) {
      const [op, args, given] = formula.steps[i];
      if (op === "constant") results.push(given);
      else if (op === "name") results.push(numbers[given]);
      else results.push(OPERATIONS[op](...args.map((a) => results[a])));
    }
    return results[formula[output]];
  }

  // The parameters of a function for one output, by name.
  function parametersAt(fn, k) {
    const at = (value) => (value instanceof Float64Array ? value[k] : value);
    return Object.fromEntries(Object.entries(fn.parameters).map(([name, value]) => [name, at(value)]));
  }

  // ---- operations: what each computes, and what it passes back -----------------------------------------------------
  //
  // forward(node, inputs) is the value; backward(node, grad, inputs) the gradients in the inputs, and in the parameters
  // by name. `node.own` are the parameters, `node.n` the number of samples.

  const zeros = (n) => new Float64Array(n);
  const fold = (arrays, join) => arrays[0].map((first, i) => arrays.slice(1).reduce((x, a) => join(x, a[i]), first));

  const linear = {
    forward(node, [z]) {
      const { weight, bias } = node.own, inWidth = z.length / node.n, out = zeros(node.n * node.width);
      for (let s = 0; s < node.n; s++) {
        for (let k = 0; k < node.width; k++) {
          let sum = 0;
          for (let j = 0; j < inWidth; j++) sum += weight[k * inWidth + j] * z[s * inWidth + j];
          out[s * node.width + k] = sum + (bias ? bias[k] : 0);
        }
      }
      return out;
    },
    backward(node, grad, [z]) {
      const { weight, bias } = node.own, inWidth = z.length / node.n;
      const below = zeros(z.length), parameters = { weight: zeros(weight.length) };
      if (bias) parameters.bias = columnSums(grad, node.width);
      for (let s = 0; s < node.n; s++) {
        for (let k = 0; k < node.width; k++) {
          const g = grad[s * node.width + k];
          for (let j = 0; j < inWidth; j++) {
            below[s * inWidth + j] += weight[k * inWidth + j] * g;
            parameters.weight[k * inWidth + j] += g * z[s * inWidth + j];
          }
        }
      }
      return { inputs: [below], parameters };
    },
  };

  const activation = {
    forward: (node, [t]) => t.map((x) => evaluate(node.fn.formula, "value", { ...node.fn.parameters, t: x })),
    backward: (node, grad, [t]) => ({
      inputs: [grad.map((g, i) => g * evaluate(node.fn.formula, "grad", { ...node.fn.parameters, t: t[i] }))],
      parameters: {},
    }),
  };

  const add = {
    forward: (node, inputs) => fold(inputs, (a, b) => a + b),
    backward: (node, grad, inputs) => ({ inputs: inputs.map(() => grad), parameters: {} }),
  };

  const multiply = {
    forward: (node, inputs) => fold(inputs, (a, b) => a * b),
    backward: (node, grad, inputs) => ({
      inputs: inputs.map((_, i) => fold([grad, ...inputs.filter((__, other) => other !== i)], (a, b) => a * b)),
      parameters: {},
    }),
  };

  const concatenate = {
    forward(node, inputs) {
      const out = zeros(node.n * node.width);
      let at = 0;
      for (const array of inputs) {
        const width = array.length / node.n;
        for (let s = 0; s < node.n; s++) out.set(array.subarray(s * width, (s + 1) * width), s * node.width + at);
        at += width;
      }
      return out;
    },
    backward(node, grad, inputs) {
      let at = 0;
      const parts = inputs.map((array) => {
        const width = array.length / node.n, part = zeros(array.length);
        for (let s = 0; s < node.n; s++) {
          part.set(grad.subarray(s * node.width + at, s * node.width + at + width), s * width);
        }
        at += width;
        return part;
      });
      return { inputs: parts, parameters: {} };
    },
  };

  const dropout = {
    forward: (node, [z]) => (node.kept ? z.map((x, i) => x * node.kept[i]) : z),
    backward: (node, grad) => ({ inputs: [node.kept ? grad.map((g, i) => g * node.kept[i]) : grad], parameters: {} }),
  };

  // Of numbers [start, start + width) of an array: e^x over the sum of all, and the logarithm of that sum.
  function shares(z, start, width) {
    const row = z.subarray(start, start + width), most = Math.max(...row), powers = row.map((x) => Math.exp(x - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return { shares: powers.map((x) => x / sum), log: Math.log(sum) + most };
  }

  const softmax = {
    forward(node, [z]) {
      const out = zeros(z.length);
      for (let at = 0; at < z.length; at += node.width) out.set(shares(z, at, node.width).shares, at);
      return out;
    },
    backward(node, grad, [z]) {
      const out = zeros(z.length);
      for (let at = 0; at < z.length; at += node.width) {
        const { shares: p } = shares(z, at, node.width), g = grad.subarray(at, at + node.width);
        const mean = p.reduce((sum, x, k) => sum + x * g[k], 0);
        out.set(p.map((x, k) => x * (g[k] - mean)), at);
      }
      return { inputs: [out], parameters: {} };
    },
  };

  // The normal numbers n = (z - mean) * scale, and the scale of each, over groups of numbers that `group` numbers.
  function normalised(node, z, group, groups) {
    const mean = zeros(groups), variance = zeros(groups), size = z.length / groups;
    z.forEach((x, i) => (mean[group(i)] += x));
    mean.forEach((sum, g) => (mean[g] = sum / size));
    z.forEach((x, i) => (variance[group(i)] += (x - mean[group(i)]) ** 2));
    const scale = z.map((_, i) => 1 / Math.sqrt(variance[group(i)] / size + node.eps));
    return { normal: z.map((x, i) => (x - mean[group(i)]) * scale[i]), scale };
  }

  const normalisation = {
    // of layer normalisation a group is a sample, of batch normalisation a feature; running statistics are given
    normal(node, z) {
      if (node.mean) {
        const scale = z.map((_, i) => node.scale[i % node.width]);
        return { normal: z.map((x, i) => (x - node.mean[i % node.width]) * scale[i]), scale, group: null };
      }
      const ofBatch = node.op === "batch_norm";
      const group = ofBatch ? (i) => i % node.width : (i) => Math.floor(i / node.width);
      const groups = ofBatch ? node.width : node.n;
      return { ...normalised(node, z, group, groups), group, groups };
    },
    forward(node, [z]) {
      const { gain, bias } = node.own, { normal } = this.normal(node, z);
      return normal.map((x, i) => gain[i % node.width] * x + bias[i % node.width]);
    },
    backward(node, grad, [z]) {
      const { normal, scale, group, groups } = this.normal(node, z);
      const g = grad.map((x, i) => x * node.own.gain[i % node.width]);
      const along = grad.map((x, i) => x * normal[i]);
      const parameters = { gain: columnSums(along, node.width), bias: columnSums(grad, node.width) };
      if (!group) return { inputs: [g.map((x, i) => x * scale[i])], parameters };
      const mean = zeros(groups), product = zeros(groups), size = z.length / groups;
      g.forEach((x, i) => {
        mean[group(i)] += x / size;
        product[group(i)] += (x * normal[i]) / size;
      });
      return { inputs: [g.map((x, i) => scale[i] * (x - mean[group(i)] - normal[i] * product[group(i)]))], parameters };
    },
  };

  const KINDS = {
    linear, activation, add, multiply, concatenate, softmax, dropout, layer_norm: normalisation, batch_norm: normalisation,
  };

  function columnSums(array, width) {
    const sums = zeros(width);
    array.forEach((x, i) => (sums[i % width] += x));
    return sums;
  }

  // ---- losses: the number, and its gradient in the outputs ---------------------------------------------------------

  // What the loss of a sample is multiplied by.
  const factor = (model, s) => model.scale * (model.weights ? model.weights[s] : 1);

  function formulaLoss(model, z) {
    const { loss, samples } = model, width = z.length / samples, grad = zeros(z.length);
    let total = 0;
    for (let i = 0; i < z.length; i++) {
      const k = i % width, s = Math.floor(i / width);
      const numbers = { ...parametersAt(loss.fn, k), z: z[i], y: model.y ? model.y[i] : 0 };
      total += factor(model, s) * evaluate(loss.fn.formula, "value", numbers);
      grad[i] = factor(model, s) * evaluate(loss.fn.formula, "grad", numbers);
    }
    return { loss: total, grad };
  }

  // The probabilities that a target of softmax cross-entropy is: itself, or 1 for the class it names.
  const probability = (model, s, k, width) => (model.classes ? Number(model.y[s] === k) : model.y[s * width + k]);

  function softmaxLoss(model, z) {
    const width = z.length / model.samples, grad = zeros(z.length);
    let total = 0;
    for (let s = 0; s < model.samples; s++) {
      const row = z.subarray(s * width, (s + 1) * width), most = Math.max(...row);
      const exponentials = row.map((x) => Math.exp(x - most)), sum = exponentials.reduce((a, b) => a + b, 0);
      let whole = 0;
      for (let k = 0; k < width; k++) {
        const y = probability(model, s, k, width);
        whole += y;
        if (y) total += factor(model, s) * y * (Math.log(sum) - (row[k] - most));
      }
      for (let k = 0; k < width; k++) {
        grad[s * width + k] =
          factor(model, s) * ((whole * exponentials[k]) / sum - probability(model, s, k, width));
      }
    }
    return { loss: total, grad };
  }

  // ---- the two passes ----------------------------------------------------------------------------------------------

  const withParameters = (model, node) => ({
    ...node,
    n: model.samples,
    fn: node.fn === undefined ? undefined : model.functions[node.fn],
    own: Object.fromEntries(Object.entries(node.parameters).map(([name, t]) => [name, model.tensors[t].data])),
  });

  // Every value, the loss, and every gradient: of values by node, of parameters by node and name, and of tensors.
  function run(model) {
    cody = model.cody;
    if (!model.live) return model.known;
    const values = [], grads = model.nodes.map(() => null), parameters = model.nodes.map(() => ({}));
    for (const node of model.nodes) {
      const inputs = node.inputs.map((i) => values[i]);
      values.push(node.op === "input" ? node.data : KINDS[node.op].forward(withParameters(model, node), inputs));
    }
    const last = model.nodes.length - 1;
    const { loss, grad } = (model.loss.kind === "softmax" ? softmaxLoss : formulaLoss)(model, values[last]);
    grads[last] = grad;
    for (let i = last; i >= 0; i--) {
      const node = model.nodes[i];
      if (node.op === "input") continue;
      const found = KINDS[node.op].backward(withParameters(model, node), grads[i], node.inputs.map((j) => values[j]));
      found.inputs.forEach((part, position) => {
        const j = node.inputs[position];
        grads[j] = grads[j] ? grads[j].map((x, at) => x + part[at]) : part;
      });
      for (const [name, part] of Object.entries(found.parameters)) {
        const owner = parameters[node.owner];
        owner[name] = owner[name] ? owner[name].map((x, at) => x + part[at]) : part;
      }
    }
    const tensors = model.tensors.map((tensor) => zeros(tensor.data.length));
    model.nodes.forEach((node, i) => {
      if (node.owner !== i) return;
      for (const [name, t] of Object.entries(node.parameters)) {
        tensors[t] = tensors[t].map((x, at) => x + parameters[i][name][at]);
      }
    });
    return { values, loss, grads, parameters, tensors };
  }

  // One step of gradient descent, in place.
  function descend(model, result, lr) {
    model.tensors.forEach((tensor, t) => (tensor.data = tensor.data.map((x, i) => x - lr * result.tensors[t][i])));
  }

  // Float64 numbers of a text in base 64, and all such texts of a model.
  function numbers(text) {
    return new Float64Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  }

  function decoded(model) {
    const walk = (value) => {
      if (Array.isArray(value)) return value.map(walk);
      if (value === null || typeof value !== "object") return value;
      if ("float64" in value) return numbers(value.float64);
      if ("scalar" in value) return numbers(value.scalar)[0];
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, walk(inner)]));
    };
    const read = walk(model);
    if (read.loss.fn !== undefined) read.loss.fn = read.functions[read.loss.fn];
    return read;
  }

  return { run, descend, decoded, evaluate, parametersAt, probability, factor, shares, normalisation, withParameters };
})();
