#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/structural_pruning.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "peft/side_model.h"
#include "peft/sublayers.h"

namespace thinwire {
namespace {

int words_of(const Backbone& backbone) {
  const auto& sites = backbone.sites();
  const auto site = std::ranges::find(sites, SiteKind::kEmbedding, &Site::kind);
  THINWIRE_ASSERT(site != sites.end(), "a backbone without embeddings");
  return site->weight;
}

at::Tensor take(const at::Tensor& x, std::int64_t dimension,
                const at::Tensor& which) {
  return which.defined() ? x.index_select(dimension, which) : x;
}

}  // namespace

class StructuralPruning::Walk {
 public:
  Walk(StructuralPruning& to, const Backbone& narrow,
       const Importance& importance)
      : to_(to), narrow_(narrow), importance_(importance) {}

  void run() {
    const Parameters& p = to_.backbone_.parameters();
    const int words = words_of(to_.backbone_);
    const at::Tensor first = largest(
        importance_(words).t(), narrow_.config().d_model, p.slot(words).name);
    at::Tensor axis = first;
    const Sublayers narrow = sublayers_of(narrow_);
    Stack stack = Stack::kEncoder;
    for (const auto& [place, s] : sublayers_of(to_.backbone_)) {
      if (std::get<Stack>(place) != stack) {
        // With a norm behind its embeddings a stack begins as the first did.
        axis = end_stack(stack, axis) ? axis : first;
        stack = std::get<Stack>(place);
      }
      const Sublayer& like = narrow.at({stack, 0, std::get<Role>(place)});
      cut(s, like.in.front()->d_out, axis);
    }
    end_stack(stack, axis);
  }

 private:
  // Every matrix of the sublayer; axis: coordinates of the residual stream,
  // before and behind it.
  void cut(const Sublayer& s, std::int64_t inner, at::Tensor& axis) {
    const bool norm_first = s.end->norm_bias < 0;  // T5's, without biases
    if (norm_first) cut_norm(*s.end, axis);
    const at::Tensor rows = rank(s.in, axis, inner);
    for (const Site* site : s.in) cut_linear(*site, rows, axis);
    axis = rank({s.out}, rows, narrow_.config().d_model);
    cut_linear(*s.out, axis, rows);
    if (!norm_first) cut_norm(*s.end, axis);
  }

  // Whether there is a norm behind the layers.
  bool end_stack(Stack stack, const at::Tensor& axis) {
    const int norm = to_.backbone_.parameters().find(
        stack_name(to_.backbone_, stack) + ".final_layer_norm.weight");
    if (norm >= 0) to_.cuts_[norm] = {axis, {}};
    return norm >= 0;
  }

  void cut_linear(const Site& site, const at::Tensor& rows,
                  const at::Tensor& columns) {
    to_.cuts_[site.weight] = {rows, columns};
    if (site.bias >= 0) to_.cuts_[site.bias] = {rows, {}};
  }

  void cut_norm(const Site& site, const at::Tensor& axis) {
    to_.cuts_[site.norm_weight] = {axis, {}};
    if (site.norm_bias >= 0) to_.cuts_[site.norm_bias] = {axis, {}};
  }

  at::Tensor rank(const std::vector<const Site*>& sites,
                  const at::Tensor& columns, std::int64_t count) const {
    at::Tensor product;
    for (const Site* site : sites) {
      // Of three squared gradients, fp32 may hold none.
      const at::Tensor own =
          take(importance_(site->weight), 1, columns).to(at::kDouble);
      product = product.defined() ? product.mul(own) : own;
    }
    return largest(product, count, sites.front()->name + ".weight");
  }

  // Rows with the largest L1 norms, ascending.
  static at::Tensor largest(const at::Tensor& importance, std::int64_t count,
                            const std::string& name) {
    const at::Tensor norms = importance.to(at::kDouble).abs().sum(1);
    if (norms.max().item<double>() == 0) {
      fail<UsageError>(
          "lst: the importance of '{}' is zero throughout, so nothing says "
          "what to keep of it; set init: random",
          name);
    }
    const std::int64_t rows = norms.size(0);
    return std::get<0>(norms.argsort(/*stable=*/true, 0, /*descending=*/false)
                           .narrow(0, rows - count, count)
                           .sort());
  }

  StructuralPruning& to_;
  const Backbone& narrow_;
  const Importance& importance_;
};

StructuralPruning::StructuralPruning(const Backbone& backbone,
                                     const Backbone& narrow,
                                     const Importance& importance)
    : backbone_(backbone) {
  Walk(*this, narrow, importance).run();
}

at::Tensor StructuralPruning::kept(int slot) const {
  const at::Tensor whole =
      backbone_.parameters().initial(slot).cpu().to(at::kFloat);
  const auto cut = cuts_.find(slot);
  if (cut == cuts_.end()) return whole;
  return take(take(whole, 0, cut->second.rows), 1, cut->second.columns)
      .contiguous();
}

std::vector<int> StructuralPruning::ranked(const Backbone& backbone) {
  std::vector<int> out{words_of(backbone)};
  for (const auto& [place, s] : sublayers_of(backbone)) {
    for (const Site* site : s.in) out.push_back(site->weight);
    out.push_back(s.out->weight);
  }
  return out;
}

}  // namespace thinwire
