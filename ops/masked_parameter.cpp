#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/masked_parameter.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/backward.h"
#include "ops/device_kernels.h"
#include "ops/masked_write.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

template <class Number, class Index>
void gather_flat(float* out, const Number* from, const Index* index,
                 std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) out[i] = from[index[i]];
}

// Matrix products leave a weight's gradient transposed; reading it as it lies
// spares a dense copy.
template <class Number, class Index>
void gather_matrix(float* out, const Number* from, const Index* index,
                   std::int64_t k, std::int64_t columns,
                   std::int64_t row_stride, std::int64_t column_stride) {
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t at = index[i];
    out[i] = from[at / columns * row_stride + at % columns * column_stride];
  }
}

template <class Number, class Index>
at::Tensor gather(const at::Tensor& dense, const at::Tensor& index) {
  const std::int64_t k = index.numel();
  at::Tensor out = at::empty({k}, at::TensorOptions().dtype(at::kFloat));
  const auto* at = index.const_data_ptr<Index>();
  if (dense.dim() == 2 && !dense.is_contiguous()) {
    gather_matrix(out.mutable_data_ptr<float>(), dense.const_data_ptr<Number>(),
                  at, k, dense.size(1), dense.stride(0), dense.stride(1));
  } else {
    gather_flat(out.mutable_data_ptr<float>(),
                dense.contiguous().const_data_ptr<Number>(), at, k);
  }
  return out;
}

at::Tensor gather(const at::Tensor& dense, const at::Tensor& index) {
  if (plain_twin(dense)) {
    return dense.flatten().index_select(0, beside(index, dense)).to(at::kFloat);
  }
  const bool narrow = index.scalar_type() == at::kInt;
  if (dense.scalar_type() == at::kFloat) {
    return narrow ? gather<float, std::int32_t>(dense, index)
                  : gather<float, std::int64_t>(dense, index);
  }
  return narrow ? gather<c10::BFloat16, std::int32_t>(dense, index)
                : gather<c10::BFloat16, std::int64_t>(dense, index);
}

Backward gathering(const at::Tensor& index) {
  return [index](const at::Tensor& grad, const std::vector<bool>&) {
    return std::vector<at::Tensor>{gather(grad, index)};
  };
}

void check(const at::Tensor& weight, const at::Tensor& values,
           const at::Tensor& index) {
  THINWIRE_ASSERT(
      (weight.scalar_type() == at::kFloat ||
       weight.scalar_type() == at::kBFloat16) &&
          values.scalar_type() == at::kFloat &&
          (index.scalar_type() == at::kInt || index.scalar_type() == at::kLong),
      "weight {}, values {}, index {}", c10::toString(weight.scalar_type()),
      c10::toString(values.scalar_type()), c10::toString(index.scalar_type()));
  THINWIRE_ASSERT(values.numel() == index.numel() && values.is_contiguous() &&
                      index.is_contiguous() && weight.is_contiguous(),
                  "{} values, {} indices, all contiguous", values.numel(),
                  index.numel());
}

void write_elsewhere(at::Tensor weight, const at::Tensor& values,
                     const at::Tensor& index) {
  const at::NoGradGuard no_grad;
  const at::Tensor at = beside(index, weight);
  const at::Tensor from = values.detach().to(weight.device());
  if (device_kernels() != nullptr) {
    check_kernel(device_kernels()->write_masked(masked_write(weight, at, 0),
                                                from.const_data_ptr<float>()),
                 "masked write");
    return;
  }
  weight.view({-1}).index_copy_(0, at.to(at::kLong),
                                from.to(weight.scalar_type()));
}

}  // namespace

at::Tensor masked_parameter(const at::Tensor& weight, const at::Tensor& values,
                            const at::Tensor& index) {
  check(weight, values, index);
  if (index.numel() == 0) return weight;  // an empty mask costs nothing
  return with_backward(weight.detach(), {values}, gathering(index),
                       "masked_parameter");
}

at::Tensor lasting_masked_parameter(const at::Tensor& weight,
                                    const at::Tensor& values,
                                    const at::Tensor& index) {
  check(weight, values, index);
  if (index.numel() == 0) return weight;
  const at::AutoGradMode record(true);
  return with_lasting_backward(weight.detach(), {values}, gathering(index),
                               "masked_parameter");
}

void write_masked(at::Tensor weight, const at::Tensor& values,
                  const at::Tensor& index) {
  check(weight, values, index);
  if (!weight.is_cpu()) return write_elsewhere(weight, values, index);
  const MaskedWrite writes[] = {masked_write(weight, index, 0)};
  write_range(writes, values.const_data_ptr<float>(), 0, index.numel());
}

}  // namespace thinwire
