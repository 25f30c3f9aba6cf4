#include "comm/combine.h"

#include <ATen/core/Tensor.h>

#include "base/error.h"

namespace thinwire {
namespace {

struct Sum {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};

struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};

// Blocks of known length vectorise whatever the cost model; ivdep, because out
// may be one of the inputs, at the same place.
template <class Op, class T>
void run(const T* low, const T* high, T* out, std::size_t count) {
  constexpr std::size_t kBlock = 16;
  const Op op;
  std::size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
#pragma GCC ivdep
    for (std::size_t j = 0; j < kBlock; ++j) {
      out[i + j] = op(low[i + j], high[i + j]);
    }
  }
  for (; i < count; ++i) out[i] = op(low[i], high[i]);
}

template <class T>
void dispatch(ReduceOp op, const std::byte* low, const std::byte* high,
              std::byte* out, std::size_t count) {
  const auto* a = reinterpret_cast<const T*>(low);
  const auto* b = reinterpret_cast<const T*>(high);
  auto* c = reinterpret_cast<T*>(out);
  switch (op) {
    case ReduceOp::kSum:
      return run<Sum>(a, b, c, count);
    case ReduceOp::kMax:
      return run<Max>(a, b, c, count);
    case ReduceOp::kMin:
      return run<Min>(a, b, c, count);
  }
}

}  // namespace

Element element_of(const at::Tensor& tensor, std::string_view tag) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Element::kFloat32;
    case at::kDouble:
      return Element::kFloat64;
    case at::kLong:
      return Element::kInt64;
    default:
      fail<UsageError>("all_reduce '{}': dtype {} is not fp32, fp64 or int64",
                       tag, c10::toString(tensor.scalar_type()));
  }
}

void combine(ReduceOp op, Element element, const std::byte* low,
             const std::byte* high, std::byte* out, std::size_t count) {
  switch (element) {
    case Element::kFloat32:
      return dispatch<float>(op, low, high, out, count);
    case Element::kFloat64:
      return dispatch<double>(op, low, high, out, count);
    case Element::kInt64:
      return dispatch<std::int64_t>(op, low, high, out, count);
  }
}

}  // namespace thinwire
