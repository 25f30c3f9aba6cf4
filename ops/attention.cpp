#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/attention_head.h"
#include "ops/backward.h"
#include "ops/dropout_draw.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

// A batch, apart from its numbers: a graph holds it instead of two Layouts.
struct Plan {
  const HeadKernels* kernels;
  std::vector<std::int64_t> query_offsets, key_offsets;  // [B + 1]
  at::Tensor positions;                                  // of queries
  std::vector<std::uint64_t> samples;                    // [B]
  std::vector<std::int64_t> visible;  // causal: [Tq] keys that a query sees
  std::int64_t heads, width;          // width: of one head
  float scale;
  std::optional<DropoutDraw> dropout;

  std::int64_t batch() const {
    return static_cast<std::int64_t>(samples.size());
  }
};

// Rows contiguous, outside autograd.
struct Operands {
  at::Tensor q, k, v, bias, extra_k, extra_v;
};

at::Tensor plain(const at::Tensor& x) {
  if (!x.defined()) return {};
  const at::Tensor out = x.detach();
  return out.dim() == 2 && out.stride(1) == 1 ? out : out.contiguous();
}

struct Place {
  std::int64_t b, head;
};

// Where head `head`'s part of row 0 begins.
HeadRows rows_at(const at::Tensor& x, std::int64_t row, std::int64_t column) {
  const std::int64_t stride = x.stride(0);
  return {x.const_data_ptr<float>() + row * stride + column, stride};
}

HeadGradient gradient_at(const at::Tensor& x, std::int64_t row,
                         std::int64_t column) {
  if (!x.defined()) return {};
  const std::int64_t stride = x.stride(0);
  return {x.mutable_data_ptr<float>() + row * stride + column, stride};
}

// Elements before sequence b's (3 dimensions) or the shared (2) extras.
std::int64_t extra_begin(const at::Tensor& x, std::int64_t b) {
  return x.dim() == 3 ? b * x.stride(0) : 0;
}

std::int64_t bias_begin(const at::Tensor& x, const Place& at) {
  const std::int64_t head = at.head * x.stride(-3);
  return x.dim() == 4 ? at.b * x.stride(0) + head : head;
}

HeadInputs sizes_of(const Plan& plan, const Operands& x, std::int64_t b) {
  const auto i = static_cast<std::size_t>(b);
  HeadInputs out;
  out.queries = plan.query_offsets[i + 1] - plan.query_offsets[i];
  out.keys = plan.key_offsets[i + 1] - plan.key_offsets[i];
  out.extra = x.extra_k.defined() ? x.extra_k.size(-2) : 0;
  out.width = plan.width;
  return out;
}

HeadInputs head_of(const Plan& plan, const Operands& x, const Place& at) {
  HeadInputs out = sizes_of(plan, x, at.b);
  const auto b = static_cast<std::size_t>(at.b);
  const std::int64_t column = at.head * plan.width;
  const std::int64_t q0 = plan.query_offsets[b], k0 = plan.key_offsets[b];
  out.q = rows_at(x.q, q0, column);
  out.k = rows_at(x.k, k0, column);
  out.v = rows_at(x.v, k0, column);
  if (out.extra > 0) {
    const std::int64_t begin = extra_begin(x.extra_k, at.b) + column;
    out.extra_k = {x.extra_k.const_data_ptr<float>() + begin,
                   x.extra_k.stride(-2)};
    out.extra_v = {x.extra_v.const_data_ptr<float>() + begin,
                   x.extra_v.stride(-2)};
  }
  if (x.bias.defined()) {
    out.bias = {x.bias.const_data_ptr<float>() + bias_begin(x.bias, at),
                x.bias.stride(-2)};
  }
  if (!plan.visible.empty()) out.visible = plan.visible.data() + q0;
  out.scale = plan.scale;
  if (plan.dropout) {
    const DropoutDraw& draw = *plan.dropout;
    out.dropout = {draw_function(),
                   draw.row(plan.samples[b], 0, draw.head_site(at.head)),
                   plan.positions.const_data_ptr<std::int64_t>() + q0,
                   draw.threshold, draw.scale};
  }
  return out;
}

// Calls f(place, scratch) for every head of every sequence, in parallel over
// `by_head`: heads, else both.
template <class F>
void each_head(const Plan& plan, const Operands& x, bool backward, bool by_head,
               const F& f) {
  std::int64_t floats = 0;
  for (std::int64_t b = 0; b < plan.batch(); ++b) {
    floats =
        std::max(floats, plan.kernels->scratch(sizes_of(plan, x, b), backward));
  }
  const std::int64_t inner = by_head ? plan.batch() : 1;
  const std::int64_t outer = plan.batch() * plan.heads / inner;
  at::parallel_for(0, outer, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor room = at::empty({floats}, at::kFloat);
    auto* scratch = room.mutable_data_ptr<float>();
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t b = 0; b < inner; ++b) {
        f(by_head ? Place{b, i} : Place{i / plan.heads, i % plan.heads},
          scratch);
      }
    }
  });
}

void forward(const Plan& plan, const Operands& x, const at::Tensor& out,
             const at::Tensor& log_sum_exp) {
  each_head(plan, x, false, false, [&](const Place& at, float* scratch) {
    const std::int64_t row = plan.query_offsets[static_cast<std::size_t>(at.b)];
    HeadOutputs to;
    to.out = gradient_at(out, row, at.head * plan.width);
    if (log_sum_exp.defined()) {
      to.log_sum_exp =
          log_sum_exp.mutable_data_ptr<float>() + at.head * out.size(0) + row;
    }
    plan.kernels->forward(head_of(plan, x, at), to, scratch);
  });
}

std::vector<at::Tensor> backward(const Plan& plan, const Operands& x,
                                 const at::Tensor& log_sum_exp,
                                 const at::Tensor& grad_out,
                                 const std::vector<bool>& needed) {
  const at::Tensor grad = plain(grad_out);
  const auto fresh = [&](std::size_t i, const at::Tensor& like) {
    // Every row belongs to a sequence, so all of it is written.
    return needed[i] ? at::empty(like.sizes(), like.options()) : at::Tensor();
  };
  const auto sum = [&](std::size_t i, const at::Tensor& like) {
    return needed[i] ? at::zeros_like(like) : at::Tensor();
  };
  const Operands d{fresh(0, x.q),  fresh(1, x.k),     fresh(2, x.v),
                   sum(3, x.bias), sum(4, x.extra_k), sum(5, x.extra_v)};
  const auto shared = [](const at::Tensor& t, std::int64_t dims) {
    return t.defined() && t.dim() == dims;
  };
  // What all sequences add to takes them in their order.
  const bool by_head =
      shared(d.bias, 3) || shared(d.extra_k, 2) || shared(d.extra_v, 2);
  each_head(plan, x, true, by_head, [&](const Place& at, float* scratch) {
    const auto b = static_cast<std::size_t>(at.b);
    const std::int64_t column = at.head * plan.width;
    const std::int64_t q0 = plan.query_offsets[b], k0 = plan.key_offsets[b];
    HeadGradients to;
    to.grad = rows_at(grad, q0, column);
    to.log_sum_exp =
        log_sum_exp.const_data_ptr<float>() + at.head * grad.size(0) + q0;
    to.q = gradient_at(d.q, q0, column);
    to.k = gradient_at(d.k, k0, column);
    to.v = gradient_at(d.v, k0, column);
    const auto extra = [&](const at::Tensor& t) -> HeadGradient {
      if (!t.defined()) return {};
      return {t.mutable_data_ptr<float>() + extra_begin(t, at.b) + column,
              t.stride(-2)};
    };
    to.extra_k = extra(d.extra_k);
    to.extra_v = extra(d.extra_v);
    if (d.bias.defined()) {
      to.bias = {d.bias.mutable_data_ptr<float>() + bias_begin(d.bias, at),
                 d.bias.stride(-2)};
    }
    plan.kernels->backward(head_of(plan, x, at), to, scratch);
  });
  return {d.q, d.k, d.v, d.bias, d.extra_k, d.extra_v};
}

std::vector<std::int64_t> visible_keys(const Layout& queries,
                                       const Layout& keys) {
  const auto* query = queries.positions.const_data_ptr<std::int64_t>();
  const auto* key = keys.positions.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> out;
  out.reserve(static_cast<std::size_t>(queries.rows()));
  for (std::size_t b = 0; b + 1 < keys.offsets.size(); ++b) {
    const auto* begin = key + keys.offsets[b];
    const auto* end = key + keys.offsets[b + 1];
    THINWIRE_ASSERT(std::is_sorted(begin, end),
                    "positions of the keys of sequence {} do not ascend", b);
    for (auto i = queries.offsets[b]; i < queries.offsets[b + 1]; ++i) {
      out.push_back(std::upper_bound(begin, end, query[i]) - begin);
    }
  }
  return out;
}

std::shared_ptr<const Plan> make_plan(const AttentionInputs& in) {
  const Layout& queries = *in.queries;
  auto plan = std::make_shared<Plan>();
  plan->kernels = &head_kernels(isa());
  plan->query_offsets = queries.offsets;
  plan->key_offsets = in.keys->offsets;
  plan->positions = queries.positions;
  const auto* samples = queries.samples.const_data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < queries.batch(); ++b) {
    const auto first = queries.offsets[static_cast<std::size_t>(b)];
    plan->samples.push_back(static_cast<std::uint64_t>(samples[first]));
  }
  if (in.causal) plan->visible = visible_keys(queries, *in.keys);
  plan->heads = in.heads;
  plan->width = in.q.size(1) / in.heads;
  plan->scale = static_cast<float>(in.scale);
  if (in.dropout != 0) plan->dropout.emplace(in.dropout, in.key);
  return plan;
}

void check(const AttentionInputs& in) {
  const Layout& queries = *in.queries;
  const Layout& keys = *in.keys;
  const std::int64_t width = in.q.size(1);
  THINWIRE_ASSERT(keys.batch() == queries.batch(),
                  "{} query and {} key sequences", queries.batch(),
                  keys.batch());
  THINWIRE_ASSERT(width % in.heads == 0, "width {}, {} heads", width, in.heads);
  THINWIRE_ASSERT(in.q.size(0) == queries.rows() &&
                      in.k.size(0) == keys.rows() && in.k.size(1) == width &&
                      in.v.sizes() == in.k.sizes(),
                  "q [{}, {}], k [{}, {}], v [{}, {}] for {} and {} rows",
                  in.q.size(0), width, in.k.size(0), in.k.size(1), in.v.size(0),
                  in.v.size(1), queries.rows(), keys.rows());
  THINWIRE_ASSERT(in.extra_k.defined() == in.extra_v.defined(),
                  "extra keys without extra values, or the reverse");
  if (in.extra_k.defined()) {
    THINWIRE_ASSERT(
        in.extra_k.sizes() == in.extra_v.sizes() &&
            in.extra_k.size(-1) == width &&
            (in.extra_k.dim() == 2 || in.extra_k.size(0) == queries.batch()),
        "extra keys [.., {}, {}] for {} sequences of width {}",
        in.extra_k.size(-2), in.extra_k.size(-1), queries.batch(), width);
  }
  if (in.bias.defined()) {
    const auto dims = in.bias.dim();
    THINWIRE_ASSERT(
        (dims == 3 || (dims == 4 && in.bias.size(0) == queries.batch())) &&
            in.bias.size(-3) == in.heads &&
            in.bias.size(-2) == queries.max_length &&
            in.bias.size(-1) == keys.max_length,
        "bias of {} dimensions, last [{}, {}, {}], for {} heads, "
        "{} queries and {} keys",
        dims, in.bias.size(-3), in.bias.size(-2), in.bias.size(-1), in.heads,
        queries.max_length, keys.max_length);
  }
  for (const at::Tensor* x :
       {&in.q, &in.k, &in.v, &in.bias, &in.extra_k, &in.extra_v}) {
    THINWIRE_ASSERT(!x->defined() || x->scalar_type() == at::kFloat,
                    "attention of {}", c10::toString(x->scalar_type()));
  }
}

}  // namespace

at::Tensor attention(const AttentionInputs& in) {
  check(in);
  if (plain_twin(in.q)) return attention_reference(in);
  const auto plan = make_plan(in);
  const Operands x{plain(in.q),    plain(in.k),       plain(in.v),
                   plain(in.bias), plain(in.extra_k), plain(in.extra_v)};
  const std::array inputs{in.q, in.k, in.v, in.bias, in.extra_k, in.extra_v};
  at::Tensor out = at::empty(in.q.sizes(), x.q.options());
  at::Tensor log_sum_exp;
  if (needs_graph(inputs)) {
    log_sum_exp = at::empty({in.heads, in.q.size(0)}, x.q.options());
  }
  forward(*plan, x, out, log_sum_exp);
  return with_backward(
      std::move(out), {inputs.begin(), inputs.end()},
      [plan, x, log_sum_exp](const at::Tensor& grad,
                             const std::vector<bool>& needed) {
        return backward(*plan, x, log_sum_exp, grad, needed);
      },
      "attention");
}

}  // namespace thinwire
