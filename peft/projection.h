// The two maps of a bottleneck, x [T, in] -> [T, out]: a matrix, one of low
// rank, or a sum of Kronecker products (hypercomplex, Compacter). What an
// adapter does with them is peft/adapter_module.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "peft/delta.h"

namespace thinwire {

class Projection {
 public:
  virtual ~Projection() = default;
  virtual at::Tensor operator()(const at::Tensor& x) const = 0;
};

// Entries are named stem + "weight", stem + "bias" …
struct ProjectionPlace {
  std::string stem;
  std::int64_t in, out;
  bool up;  // the second of the two
};

class ProjectionKind {
 public:
  virtual ~ProjectionKind() = default;
  // What all projections of a model share; once, before the first.
  virtual void declare_shared(DeltaBuilder&, std::uint64_t) const {}
  // Throws UsageError for widths that it cannot have.
  virtual void declare(DeltaBuilder& builder, const ProjectionPlace& place,
                       std::uint64_t seed) const = 0;
  virtual std::unique_ptr<Projection> read(
      const Delta& delta, const ProjectionPlace& place) const = 0;
};

// W [out, in], b [out]: 2-D normal with `std` and b 0. zero_up: the first map
// starts uniform in (-1/sqrt(in), 1/sqrt(in)), the second 0, so that the
// bottleneck starts as nothing at all.
struct DenseOptions {
  double std = 0.01;
  bool zero_up = false;
};
std::unique_ptr<ProjectionKind> dense_projections(const DenseOptions& options);

// y = (x L) R + b: L [in, r], R [r, out], b [out]; L and R Glorot's uniform, b
// 0, and R of the second map 0: the bottleneck starts as nothing at all.
// Karimi Mahabadi et al. 2021, sec. 5: low-rank adapters.
std::unique_ptr<ProjectionKind> low_rank_projections(std::int64_t rank);

// y = x W + b with W [in, out] = sum over i < n of A_i (x) B_i, (x) the
// Kronecker product; A [n, n, n], B [n, in/n, out/n], b [out].
// Zhang et al. 2021, "Beyond fully-connected layers with quaternions:
// parameterization of hypercomplex multiplications with 1/n parameters", sec.
// 3; Karimi Mahabadi, Henderson & Ruder 2021, "Compacter: efficient low-rank
// hypercomplex adapter layers", eqs. 4 to 6: B_i = s_i t_i with s [n, in/n, r]
// and t [n, r, out/n], A one for the whole model.
struct HypercomplexOptions {
  std::string_view method;  // for messages
  std::int64_t n = 4;
  std::int64_t rank = 1;  // r; 0: B whole
  bool shared_rule = true;
};
std::unique_ptr<ProjectionKind> hypercomplex_projections(
    const HypercomplexOptions& options);

}  // namespace thinwire
