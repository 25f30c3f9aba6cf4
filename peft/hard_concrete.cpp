#include "peft/hard_concrete.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/sigmoid.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "ops/backward.h"

namespace thinwire {
namespace {

at::Tensor concrete(const at::Tensor& a, const at::Tensor& u) {
  if (!u.defined()) return at::sigmoid(a);
  // sigmoid(log u - log(1 - u) + a) with one exponential in place of three
  // functions: u / (u + (1 - u) exp(-a)).
  return u.div(at::exp(a.neg()).mul_(u.neg().add_(1)).add_(u));
}

at::Tensor stretched(const at::Tensor& s) {
  return s.mul(kGateHigh - kGateLow).add_(kGateLow);
}

// Calls run(begin, count) for pieces of n numbers that stay in a core's cache
// from the first operation to the last, on all threads; on another device for
// all of them at once.
constexpr std::int64_t kPiece = 16384;

std::int64_t pieces(std::int64_t n) { return (n + kPiece - 1) / kPiece; }

template <class Run>
void in_pieces(const at::Tensor& like, const Run& run) {
  const std::int64_t n = like.numel();
  if (!like.is_cpu()) return run(0, n);
  at::parallel_for(0, pieces(n), 1, [&](std::int64_t i, std::int64_t end) {
    for (; i < end; ++i) run(i * kPiece, std::min(kPiece, n - i * kPiece));
  });
}

// The pieces' sums, whoever summed them, in their order.
class Sum {
 public:
  explicit Sum(std::int64_t n)
      : of_(static_cast<std::size_t>(pieces(n)), 0.0) {}
  void add(std::int64_t begin, const at::Tensor& numbers) {
    of_[static_cast<std::size_t>(begin / kPiece)] =
        numbers.sum(at::kDouble).item<double>();
  }
  double total() const { return std::accumulate(of_.begin(), of_.end(), 0.0); }

 private:
  std::vector<double> of_;
};

using Of = GateNoise::Of;

// Of these numbers, beside them; no noise: undefined.
at::Tensor noise_beside(const at::Tensor& a,
                        const std::optional<GateNoise>& noise, Of of,
                        std::int64_t begin = 0) {
  if (!noise) return {};
  return noise->draw(begin, a.numel(), of).to(a.device());
}

// Flat views of what gated() takes, outside the graph.
struct Flat {
  at::Tensor values, rest, gates, shared;

  explicit Flat(const GatedTensor& t)
      : values(t.values.detach().view({-1})),
        rest(t.rest.detach().view({-1})),
        gates(t.gates.detach().view({-1})),
        shared(t.shared.defined() ? t.shared.detach() : at::Tensor()) {}
};

}  // namespace

at::Tensor GateNoise::draw(std::int64_t begin, std::int64_t count,
                           Of of) const {
  THINWIRE_ASSERT(begin % kPiece == 0, "noise from number {} on", begin);
  const PhiloxKey key = make_key(seed, Purpose::kMask, step);
  at::Tensor u = at::empty({count}, at::kFloat);
  auto* out = u.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < count; i += kPiece) {
    const auto piece = static_cast<std::uint64_t>((begin + i) / kPiece);
    const std::uint64_t stream =
        mix64(static_cast<std::uint64_t>(tensor) << 32 | piece) ^
        (std::uint64_t{key.k1} << 32 | key.k0);
    fill_uniform(out + i, std::min(kPiece, count - i), stream,
                 of == Of::kTensor ? "gate.tensor" : "gate.numbers", 0, 1);
  }
  return u.clamp_(1e-4, 1 - 1e-4);
}

at::Tensor gate(const at::Tensor& a, const at::Tensor& u) {
  return stretched(concrete(a, u)).clamp_(0, 1);
}

at::Tensor gate_slope(const at::Tensor& a, const at::Tensor& u) {
  const at::Tensor s = concrete(a, u);
  const at::Tensor z = stretched(s);
  return s.mul(s.neg().add_(1))
      .mul_(kGateHigh - kGateLow)
      .mul_(z.gt(0).logical_and_(z.lt(1)));
}

double add_open_penalty(const at::Tensor& a, double lambda, double scale,
                        at::Tensor grad) {
  static_assert(kGateLow == -kGateHigh, "log(-l / r) is 0");
  Sum sum(a.numel());
  in_pieces(a, [&](std::int64_t begin, std::int64_t count) {
    const at::Tensor open = at::sigmoid(a.narrow(0, begin, count));
    grad.narrow(0, begin, count)
        .add_(open.mul(open.neg().add_(1)), lambda * scale);
    sum.add(begin, open);
  });
  return lambda * sum.total();
}

at::Tensor gated(const GatedTensor& tensor,
                 const std::optional<GateNoise>& noise) {
  THINWIRE_ASSERT(tensor.values.sizes() == tensor.gates.sizes() &&
                      tensor.values.sizes() == tensor.rest.sizes(),
                  "{} values, {} gates, {} numbers", tensor.values.numel(),
                  tensor.gates.numel(), tensor.rest.numel());
  const Flat t(tensor);
  at::Tensor whole;
  if (t.shared.defined()) {
    whole = gate(t.shared, noise_beside(t.shared, noise, Of::kTensor));
  }
  at::Tensor out = at::empty(tensor.values.sizes(), t.values.options());
  in_pieces(t.values, [&](std::int64_t begin, std::int64_t count) {
    const auto of = [&](const at::Tensor& x) {
      return x.narrow(0, begin, count);
    };
    const at::Tensor a = of(t.gates);
    at::Tensor z = gate(a, noise_beside(a, noise, Of::kNumbers, begin));
    if (whole.defined()) z.mul_(whole);
    of(out.view({-1}))
        .copy_(of(t.values).sub(of(t.rest)).mul_(z).add_(of(t.rest)));
  });
  std::vector<at::Tensor> inputs = {tensor.values, tensor.gates};
  if (t.shared.defined()) inputs.push_back(tensor.shared);
  const auto backward = [t, noise, whole](const at::Tensor& grad,
                                          const std::vector<bool>&) {
    const at::Tensor dy = grad.contiguous().view({-1});
    at::Tensor d_values = at::empty_like(dy), d_gates = at::empty_like(dy);
    Sum d_whole(dy.numel());
    in_pieces(dy, [&](std::int64_t begin, std::int64_t count) {
      const auto of = [&](const at::Tensor& x) {
        return x.narrow(0, begin, count);
      };
      const at::Tensor a = of(t.gates), g = of(dy);
      const at::Tensor u = noise_beside(a, noise, Of::kNumbers, begin);
      at::Tensor z = gate(a, u), slope = gate_slope(a, u);
      const at::Tensor change = of(t.values).sub(of(t.rest)).mul_(g);
      if (whole.defined()) {
        d_whole.add(begin, change.mul(z));
        z.mul_(whole);
        slope.mul_(whole);
      }
      of(d_values).copy_(z.mul_(g));
      of(d_gates).copy_(slope.mul_(change));
    });
    std::vector<at::Tensor> grads = {d_values.view(grad.sizes()),
                                     d_gates.view(grad.sizes())};
    if (whole.defined()) {
      const at::Tensor u = noise_beside(t.shared, noise, Of::kTensor);
      grads.push_back(gate_slope(t.shared, u).mul_(d_whole.total()));
    }
    return grads;
  };
  return with_backward(out, std::move(inputs), backward, "gated");
}

}  // namespace thinwire
