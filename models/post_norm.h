// What BERT and BART share: layers with biases, a layer norm behind every
// residual sum.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "models/backbone.h"
#include "models/tensor_source.h"

namespace thinwire {

struct Norm {
  int weight = -1, bias = -1;  // slots
};

class PostNormBackbone : public Backbone {
 protected:
  using Backbone::Backbone;

  // Of matrices that are made up.
  Init normal() const;
  // NAME.weight and NAME.bias, or .gamma and .beta as old files have them.
  Norm add_norm(TensorSource& source, const std::string& name);
  // What add_linear() and add_other() begin from. They return its number.
  Site place(Stack stack, std::string name, Role role, int layer) const;
  int add_other(Site site, SiteKind kind, const Norm& norm = {});
  int add_linear(TensorSource& source, Site site, std::int64_t d_in,
                 std::int64_t d_out);

  at::Tensor norm(const at::Tensor& x, const Norm& n,
                  const ForwardContext& ctx) const;
  // The end of a sublayer: norm(x + dropout(u)), with what is attached at
  // `site`; x [T, d] is also what the sublayer read.
  at::Tensor add_and_norm(int site, const Norm& n, const at::Tensor& x,
                          at::Tensor u, std::uint32_t dropout,
                          const ForwardContext& ctx);
};

}  // namespace thinwire
