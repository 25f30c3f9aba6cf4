#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/masked_parameter.h"

#include <ATen/ops/empty.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"

namespace thinwire {
namespace {

template <class Index>
void gather_flat(float* out, const float* from, const Index* index,
                 std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) out[i] = from[index[i]];
}

// Matrix products leave a weight's gradient transposed; reading it as it lies
// spares a dense copy.
template <class Index>
void gather_matrix(float* out, const float* from, const Index* index,
                   std::int64_t k, std::int64_t columns,
                   std::int64_t row_stride, std::int64_t column_stride) {
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t at = index[i];
    out[i] = from[at / columns * row_stride + at % columns * column_stride];
  }
}

template <class Index>
at::Tensor gather(const at::Tensor& dense, const at::Tensor& index) {
  const std::int64_t k = index.numel();
  at::Tensor out = at::empty({k}, dense.options().requires_grad(false));
  const auto* at = index.const_data_ptr<Index>();
  if (dense.dim() == 2 && !dense.is_contiguous()) {
    gather_matrix(out.mutable_data_ptr<float>(), dense.const_data_ptr<float>(),
                  at, k, dense.size(1), dense.stride(0), dense.stride(1));
  } else {
    gather_flat(out.mutable_data_ptr<float>(),
                dense.contiguous().const_data_ptr<float>(), at, k);
  }
  return out;
}

template <class Index>
void scatter(float* out, const float* values, const Index* index,
             std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) out[index[i]] = values[i];
}

void check(const at::Tensor& weight, const at::Tensor& values,
           const at::Tensor& index) {
  THINWIRE_ASSERT(
      weight.scalar_type() == at::kFloat &&
          values.scalar_type() == at::kFloat &&
          (index.scalar_type() == at::kInt || index.scalar_type() == at::kLong),
      "weight {}, values {}, index {}", c10::toString(weight.scalar_type()),
      c10::toString(values.scalar_type()), c10::toString(index.scalar_type()));
  THINWIRE_ASSERT(values.numel() == index.numel() && values.is_contiguous() &&
                      index.is_contiguous() && weight.is_contiguous(),
                  "{} values, {} indices, all contiguous", values.numel(),
                  index.numel());
}

}  // namespace

at::Tensor masked_parameter(const at::Tensor& weight, const at::Tensor& values,
                            const at::Tensor& index) {
  check(weight, values, index);
  if (index.numel() == 0) return weight;  // an empty mask costs nothing
  return with_backward(
      weight.detach(), {values},
      [index](const at::Tensor& grad, const std::vector<bool>&) {
        return std::vector<at::Tensor>{index.scalar_type() == at::kInt
                                           ? gather<std::int32_t>(grad, index)
                                           : gather<std::int64_t>(grad, index)};
      },
      "masked_parameter");
}

void write_masked(at::Tensor weight, const at::Tensor& values,
                  const at::Tensor& index) {
  check(weight, values, index);
  // Raw pointers: no version counter moves, no graph is recorded.
  auto* out = static_cast<float*>(weight.unsafeGetTensorImpl()->mutable_data());
  const auto* from = values.const_data_ptr<float>();
  if (index.scalar_type() == at::kInt) {
    scatter(out, from, index.const_data_ptr<std::int32_t>(), index.numel());
  } else {
    scatter(out, from, index.const_data_ptr<std::int64_t>(), index.numel());
  }
}

}  // namespace thinwire
