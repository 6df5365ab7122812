#pragma once
#include "stack.h"
// The pass for equations that read first derivatives of one output alone: backpropagation twice, as
// backprop_xp/derivatives/ways.py says it. Its cost doesn't depend on the number of inputs.
//
// A block of samples goes up the net and down again for the output's gradient g in x; what the equation gives back, its
// gradient v in g, is pushed up as one tangent. From then on two signals stand beside each other, as in stack.h: the signal
// and its tangent. The gradient in the tangent is what came down before.

namespace bpx {

template <class S> struct TwiceTile : StackTile<S> {
  using Base = StackTile<S>;
  using Base::m, Base::blocks, Base::W, Base::z, Base::t, Base::z_apart, Base::up, Base::down, Base::add_rows, Base::adds,
      Base::each_skip;
  using T = Pack<S, 1>;

  TwiceTile(const Stack& m, S* memory, i64 first, i64 count) : Base(m, memory, first, count) {}

  /// Above z(l) and t(l): the tangent, and the gradient in it.
  S* tangent(i64 l, i64 block) const { return z(l, block) + z_apart(l); }
  S* from_above(i64 l, i64 block) const { return t(l, block) + z_apart(l); }
  /// f'(t), and in the place of the gradient in t, until that is known, f''(t) times what has come so far.
  S* slope(i64 l, i64 block) const { return this->memory + m.layers[l].slope + block * z_apart(l); }
  S* second(i64 l, i64 block) const { return t(l, block); }

  /// Calls op(i) for the registers of some features of a strip.
  template <class Op> BPX_FN static void each_register(i64 r, i64 rows, Op op) {
    for (i64 i = r * W; i < (r + rows) * W; i += panel<S>) op(i);
  }

  void forward(i64 l, i64 b) {
    const StackLayer& layer = m.layers[l];
    strip_products(1, layer.outputs, layer.inputs, up(l), z(l - 1, b), 0, (const S*)layer.bias, z(l, b), 0,
                   [&](i64 r, i64 rows) {
                     const i64 i = r * W;
                     if (adds(l, true)) add_rows(1, layer.outputs, r, rows, z(l, b), z(layer.skip, b));
                     if (layer.slopes) layer.slopes(rows, z(l, b) + i, slope(l, b) + i, second(l, b) + i, layer.p);
                     if (adds(l, false)) add_rows(1, layer.outputs, r, rows, z(l, b), z(layer.skip, b));
                   });
  }
  /// to = `from` times f'(t), and what has come so far times `from`.
  void times_slopes(i64 l, i64 b, const S* from, S* to, i64 r, i64 rows) {
    S *const f2 = second(l, b), *const f1 = slope(l, b);
    if (m.layers[l].slopes) {
      each_register(r, rows, [&](i64 i) __attribute__((always_inline)) {
        const T factor = load<T>(from + i);
        store<T>(f2 + i, load<T>(f2 + i) * factor);
        store<T>(to + i, load<T>(f1 + i) * factor);
      });
    } else if (from != to) {
      each_register(r, rows, [&](i64 i) { store<T>(to + i, load<T>(from + i)); });
    }
  }
  /// The gradient of the output in every t, by way of those in z, which stand in the places of the tangents; and in x.
  void gradient(i64 b) {
    const i64 last = m.depth - 1, outputs = m.layers[last].outputs;
    S* const seed = tangent(last, b);
    each_register(0, outputs, [&](i64 i) { store<T>(seed + i, c<T>(i / W == m.output ? S(1) : S(0))); });
    times_slopes(last, b, seed, from_above(last, b), 0, outputs);
    for (i64 l = last; l >= 0; --l) {
      const i64 inputs = m.layers[l].inputs;
      S* const to = tangent(l - 1, b);
      strip_products(1, inputs, m.layers[l].outputs, down(l), from_above(l, b), 0, (const S*)nullptr, to, 0,
                     [&](i64 r, i64 rows) {
                       each_skip(l - 1, [&](i64 above) {
                         add_rows(1, inputs, r, rows, to, m.layers[above].before ? from_above(above, b) : tangent(above, b));
                       });
                       if (l) times_slopes(l - 1, b, to, from_above(l - 1, b), r, rows);
                     });
    }
  }
  void push_tangent(i64 l, i64 b) {
    const StackLayer& layer = m.layers[l];
    if (l == m.depth - 1 && !layer.slopes) return;  // nothing reads it
    S* const to = tangent(l, b);
    strip_products(1, layer.outputs, layer.inputs, up(l), tangent(l - 1, b), 0, (const S*)nullptr, to, 0,
                   [&](i64 r, i64 rows) {
                     if (adds(l, true)) add_rows(1, layer.outputs, r, rows, to, tangent(layer.skip, b));
                     times_slopes(l, b, to, to, r, rows);
                     if (adds(l, false)) add_rows(1, layer.outputs, r, rows, to, tangent(layer.skip, b));
                   });
  }
  /// The gradient in t of some features of a layer, from that in z.
  void through(i64 l, i64 b, i64 r, i64 rows) {
    S *const to = t(l, b), *const above = z(l, b), *const f1 = slope(l, b);
    if (m.layers[l].slopes) {
      each_register(r, rows, [&](i64 i) __attribute__((always_inline)) {
        store<T>(to + i, fma(load<T>(above + i), load<T>(f1 + i), load<T>(to + i)));
      });
    } else {
      each_register(r, rows, [&](i64 i) { store<T>(to + i, load<T>(above + i)); });
    }
  }
  /// From the gradients in t of a layer and in its tangent those of its parameters, and that in t below, where z is lost.
  void backward(i64 l, S* grads, bool add) {
    const StackLayer& layer = m.layers[l];
    const i64 here = z_apart(l);
    outer_product(2 * blocks, layer.outputs, layer.inputs, t(l), here, z(l - 1), z_apart(l - 1), grads + layer.grad, add);
    if (layer.bias)
      row_sums(blocks, layer.outputs, t(l), 2 * here, grads + layer.grad + layer.inputs * layer.outputs, add);
    if (l == 0 && !m.x_grad) return;
    for (i64 b = 0; b < blocks; ++b)
      strip_products(1, layer.inputs, layer.outputs, down(l), t(l, b), 0, (const S*)nullptr, z(l - 1, b), 0,
                     [&](i64 r, i64 rows) {
                       each_skip(l - 1, [&](i64 above) {
                         add_rows(1, layer.inputs, r, rows, z(l - 1, b), m.layers[above].before ? t(above, b) : z(above, b));
                       });
                       if (l) through(l - 1, b, r, rows);
                     });
  }

  double run(S* grads, bool add) {
    double total = 0;
    for (i64 b = 0; b < blocks; ++b) {
      this->take_x(b);
      for (i64 l = 0; l < m.depth; ++l) forward(l, b);
      gradient(b);
      total += this->equation(b);
      for (i64 l = 0; l < m.depth; ++l) push_tangent(l, b);
      through(m.depth - 1, b, 0, m.layers[m.depth - 1].outputs);
    }
    for (i64 l = m.depth - 1; l >= 0; --l) backward(l, grads, add);
    if (m.x_grad) this->add_x_grad();
    return total;
  }
};

template <class S> void run_stack(Stack* m) {
  m->output < 0 ? run_tiles<StackTile<S>, S>(m) : run_tiles<TwiceTile<S>, S>(m);
}

}  // namespace bpx

/// What Python calls, for S = float or double.
#define BPX_STACK(S)                                                             \
  BPX_ENTRY void bpx_stack_prepare(bpx::Stack* m) { bpx::prepare<S>(*m); }       \
  BPX_ENTRY void bpx_stack(bpx::Stack* m) { bpx::run_stack<S>(m); }              \
  BPX_ENTRY bpx::i64 bpx_stack_chunk() { return bpx::stack_chunk; }              \
  BPX_TREE(S) BPX_SIZE_OF(StackLayer) BPX_SIZE_OF(Stack)
