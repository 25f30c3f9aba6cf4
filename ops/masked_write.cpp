#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/masked_write.h"

#include <c10/util/BFloat16.h>

#include <algorithm>

#include "base/error.h"

namespace thinwire {
namespace {

template <class Number, class Index>
void write(const MaskedWrite& w, const float* values, std::int64_t begin,
           std::int64_t end) {
  auto* out = static_cast<Number*>(w.weight);
  const auto* index = static_cast<const Index*>(w.index) - w.begin;
  for (std::int64_t i = begin; i < end; ++i) {
    out[index[i]] = static_cast<Number>(values[i]);
  }
}

template <class Number, class Index>
void prefetch(const MaskedWrite& w, std::int64_t begin, std::int64_t end) {
  const auto* out = static_cast<const Number*>(w.weight);
  const auto* index = static_cast<const Index*>(w.index) - w.begin;
  for (std::int64_t i = begin; i < end; ++i) {
    __builtin_prefetch(out + index[i], /*write=*/1);
  }
}

template <class F>
void with_types(const MaskedWrite& w, const F& f) {
  const auto indexed = [&](auto number) {
    w.wide ? f(number, std::int64_t{}) : f(number, std::int32_t{});
  };
  w.bf16 ? indexed(c10::BFloat16{}) : indexed(float{});
}

// Calls f(write, from, to) for what each write has of [begin, end).
template <class F>
void for_each_part(std::span<const MaskedWrite> writes, std::int64_t begin,
                   std::int64_t end, const F& f) {
  auto w = std::ranges::upper_bound(
      writes, begin, {},
      [](const MaskedWrite& x) { return x.begin + x.count; });
  for (; w != writes.end() && w->begin < end; ++w) {
    f(*w, std::max(begin, w->begin), std::min(end, w->begin + w->count));
  }
}

}  // namespace

MaskedWrite masked_write(const at::Tensor& weight, const at::Tensor& index,
                         std::int64_t begin) {
  const auto type = weight.scalar_type();
  const auto places = index.scalar_type();
  THINWIRE_ASSERT((type == at::kFloat || type == at::kBFloat16) &&
                      (places == at::kInt || places == at::kLong) &&
                      weight.is_contiguous() && index.is_contiguous(),
                  "weight {}, index {}, both contiguous", c10::toString(type),
                  c10::toString(places));
  return {.begin = begin,
          .count = index.numel(),
          .index = index.const_data_ptr(),
          .wide = places == at::kLong,
          .weight = weight.unsafeGetTensorImpl()->mutable_data(),
          .bf16 = type == at::kBFloat16};
}

void write_range(std::span<const MaskedWrite> writes, const float* values,
                 std::int64_t begin, std::int64_t end) {
  for_each_part(writes, begin, end, [&](const auto& w, auto from, auto to) {
    with_types(w, [&](auto number, auto index) {
      write<decltype(number), decltype(index)>(w, values, from, to);
    });
  });
}

void prefetch_range(std::span<const MaskedWrite> writes, std::int64_t begin,
                    std::int64_t end) {
  for_each_part(writes, begin, end, [&](const auto& w, auto from, auto to) {
    with_types(w, [&](auto number, auto index) {
      prefetch<decltype(number), decltype(index)>(w, from, to);
    });
  });
}

}  // namespace thinwire
