#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/dropout_rows.h"

#include <algorithm>

#include "base/clones.h"
#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::int64_t kSpan = 8 * kDrawn;

THINWIRE_CLONE_BODY void keep_body(float* out, const float* in, std::int64_t n,
                                   const std::int32_t* __restrict drawn,
                                   std::int32_t threshold, float scale) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float kept = in[i] * scale;
    out[i] = drawn[i] >= threshold ? kept : 0.0f;
  }
}
constexpr Clones<&keep_body> keep;

THINWIRE_CLONE_BODY void keep_add_body(float* out, const float* added,
                                       const float* in, std::int64_t n,
                                       const std::int32_t* __restrict drawn,
                                       std::int32_t threshold, float scale) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float kept = in[i] * scale;
    out[i] = added[i] + (drawn[i] >= threshold ? kept : 0.0f);
  }
}
constexpr Clones<&keep_add_body> keep_add;

THINWIRE_CLONE_BODY void add_body(float* out, const float* a, const float* b,
                                  std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}
constexpr Clones<&add_body> add;

// use(begin, count, drawn) for spans of d numbers of one row.
template <class Use>
void for_spans(const RowDraw& row, std::int64_t d, const Use& use) {
  const DrawFunction draw = draw_function();
  std::int32_t drawn[kSpan];
  for (std::int64_t begin = 0; begin < d; begin += kSpan) {
    const std::int64_t count = std::min(kSpan, d - begin);
    for (std::int64_t i = 0; i < count; i += kDrawn) {
      draw(drawn + i, row, static_cast<std::uint32_t>((begin + i) / 4));
    }
    use(begin, count, drawn);
  }
}

RowDraw row_of(const DropoutDraw& draw, const at::Tensor& samples,
               const at::Tensor& positions, std::int64_t t) {
  return draw.row(
      static_cast<std::uint64_t>(samples.const_data_ptr<std::int64_t>()[t]),
      static_cast<std::uint32_t>(positions.const_data_ptr<std::int64_t>()[t]),
      draw.site);
}

}  // namespace

void drop_row(float* out, const float* in, std::int64_t d, const RowDraw& row,
              const DropoutDraw& draw) {
  for_spans(row, d,
            [&](std::int64_t begin, std::int64_t n, const std::int32_t* drawn) {
              keep(out + begin, in + begin, n, drawn, draw.threshold,
                   draw.scale);
            });
}

DropoutRows::DropoutRows(double p, const DropoutKey& key, const Layout& layout,
                         const at::Tensor& x)
    : draw_(p, key), samples_(layout.samples), positions_(layout.positions) {
  THINWIRE_ASSERT(x.scalar_type() == at::kFloat && x.dim() == 2 &&
                      (!any() || x.size(0) == layout.rows()),
                  "dropout of {} rows of {}, expected {} of fp32", x.size(0),
                  c10::toString(x.scalar_type()), layout.rows());
}

void DropoutRows::drop(float* out, const float* in, std::int64_t t,
                       std::int64_t d) const {
  if (!any()) {
    if (out != in) std::copy_n(in, d, out);
    return;
  }
  drop_row(out, in, d, row_of(draw_, samples_, positions_, t), draw_);
}

void DropoutRows::drop_add(float* out, const float* added, const float* in,
                           std::int64_t t, std::int64_t d) const {
  if (!any()) return add(out, added, in, d);
  for_spans(row_of(draw_, samples_, positions_, t), d,
            [&](std::int64_t begin, std::int64_t n, const std::int32_t* drawn) {
              keep_add(out + begin, added + begin, in + begin, n, drawn,
                       draw_.threshold, draw_.scale);
            });
}

}  // namespace thinwire
