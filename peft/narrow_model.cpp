#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/narrow_model.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "peft/side_model.h"
#include "peft/sublayers.h"

namespace thinwire {
namespace {

using Tensors = std::map<std::string, at::Tensor, std::less<>>;

class MapSource : public TensorSource {
 public:
  explicit MapSource(Tensors tensors) : tensors_(std::move(tensors)) {}

  at::Tensor get(const std::vector<std::string>& names,
                 const std::vector<std::int64_t>& shape, const Init&,
                 bool required) override {
    for (const std::string& name : names) {
      const auto it = tensors_.find(name);
      if (it == tensors_.end()) continue;
      THINWIRE_ASSERT(it->second.sizes() == at::IntArrayRef(shape),
                      "'{}' is [{}], the narrow model's [{}]", name,
                      fmt::join(it->second.sizes(), ", "),
                      fmt::join(shape, ", "));
      return it->second;
    }
    THINWIRE_ASSERT(!required, "no '{}'", names.front());
    return {};
  }
  bool contains(std::string_view name) const override {
    return tensors_.contains(name);
  }

 private:
  Tensors tensors_;
};

// The key of config.json that says how many channels a stack's feed-forwards
// have.
const char* channels_key(const std::string& architecture, Stack stack) {
  if (architecture == "bart") {
    return stack == Stack::kEncoder ? "encoder_ffn_dim" : "decoder_ffn_dim";
  }
  if (architecture == "gpt2") return "n_inner";
  return architecture == "t5" ? "d_ff" : "intermediate_size";
}

// Sublayers that keep the same units.
struct Together {
  std::vector<const Sublayer*> sublayers;
  Stack stack = Stack::kEncoder;
  bool relative_bias = false;  // which has a column for each unit
};

class Narrowing {
 public:
  Narrowing(const Backbone& backbone, const MergedSlots& merged)
      : backbone_(backbone),
        p_(backbone.parameters()),
        raw_(backbone.config().raw),
        sublayers_(sublayers_of(backbone)) {
    for (int i = 0; i < p_.size(); ++i) {
      tensors_[p_.slot(i).name] = p_.get(i, {}).detach().to(at::kFloat);
    }
    for (const auto& [slot, tensor] : merged) {
      tensors_[p_.slot(slot).name] = tensor;
    }
  }

  NarrowModel run() {
    NarrowModel out;
    narrow_channels();
    narrow_heads();
    out.said = std::move(said_);
    if (!narrower_) return out;
    out.source = std::make_shared<MapSource>(std::move(tensors_));
    out.backbone = make_backbone(
        parse_model_config(std::move(raw_), "the narrower model"), *out.source);
    return out;
  }

 private:
  void narrow_channels() {
    const std::string& architecture = backbone_.config().architecture;
    std::map<std::string, std::vector<Together>> groups;
    for (const auto& [place, s] : sublayers_) {
      const auto [stack, layer, role] = place;
      if (role != Role::kFeedForward) continue;
      groups[channels_key(architecture, stack)].push_back({{&s}, stack});
    }
    for (auto& [key, group] : groups) {
      narrow(group, group.front().sublayers.front()->out->d_in, key);
    }
  }

  void narrow_heads() {
    const ModelConfig& c = backbone_.config();
    std::map<std::tuple<Stack, int, Role>, Together> groups;
    for (const auto& [place, s] : sublayers_) {
      const auto [stack, layer, role] = place;
      if (role == Role::kFeedForward) continue;
      const bool self = role == Role::kSelfAttention;
      Together& group = groups[{stack, self ? 0 : layer, role}];
      group.sublayers.push_back(&s);
      group.stack = stack;
      group.relative_bias = self;
    }
    std::vector<Together> all;
    for (auto& [place, group] : groups) all.push_back(std::move(group));
    if (c.architecture == "t5") {
      raw_["d_kv"] = c.d_kv;
      return narrow(all, c.heads, "num_heads");
    }
    std::int64_t unread = 0;
    for (const Together& group : all) {
      const std::int64_t heads =
          group.stack == Stack::kDecoder && c.decoder_layers > 0
              ? c.decoder_heads
              : c.heads;
      for (const Sublayer* s : group.sublayers) {
        unread += heads - read({{s}}, heads).sum().item<std::int64_t>();
      }
    }
    if (unread == 0) return;
    said_.push_back(
        fmt::format("{} heads that nothing reads stay, as zeros: {}'s config "
                    "has no width of a head beside their number",
                    unread, c.architecture));
  }

  // Every group to the units of the one that is read most.
  void narrow(const std::vector<Together>& groups, std::int64_t units,
              const std::string& key) {
    std::int64_t most = 1;
    std::vector<at::Tensor> are_read;
    for (const Together& group : groups) {
      are_read.push_back(read(group, units));
      most = std::max(most, are_read.back().sum().item<std::int64_t>());
    }
    if (most == units) return;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      // Those that are read come first; then both in their order.
      const at::Tensor kept =
          std::get<0>(are_read[i]
                          .to(at::kInt)
                          .argsort(/*stable=*/true, 0, /*descending=*/true)
                          .narrow(0, 0, most)
                          .sort());
      cut(groups[i], kept, units);
    }
    raw_[key] = most;
    narrower_ = true;
    said_.push_back(fmt::format("{}: {} of {} are left", key, most, units));
  }

  const at::Tensor& weight(const Site& site) const {
    return tensors_.at(p_.slot(site.weight).name);
  }
  at::Tensor matrix(const Site& site) const {
    return out_in(weight(site), p_.slot(site.weight).axes);
  }

  // bool [units]: whether some number of the sublayers' last matrices reads it.
  at::Tensor read(const Together& group, std::int64_t units) const {
    at::Tensor out = at::zeros({units}, at::kBool);
    for (const Sublayer* s : group.sublayers) {
      out.logical_or_(matrix(*s->out).ne(0).any(0).view({units, -1}).any(1));
    }
    return out;
  }

  void cut(const Together& group, const at::Tensor& kept, std::int64_t units) {
    for (const Sublayer* s : group.sublayers) {
      for (const Site* site : s->in) {
        take(site->weight, 0, rows_of(kept, site->d_out / units));
        if (site->bias >= 0) {
          take(site->bias, 0, rows_of(kept, site->d_out / units));
        }
      }
      take(s->out->weight, 1, rows_of(kept, s->out->d_in / units));
    }
    if (!group.relative_bias) return;
    const std::string name = layer_name(backbone_, group.stack, 0) +
                             ".layer.0.SelfAttention.relative_attention_bias"
                             ".weight";
    at::Tensor& bias = tensors_.at(name);
    bias = bias.index_select(1, kept);
  }

  // int64 [k] units -> [k * width] rows.
  static at::Tensor rows_of(const at::Tensor& units, std::int64_t width) {
    return units.mul(width)
        .unsqueeze(1)
        .add(at::arange(width, at::kLong))
        .reshape({-1});
  }

  // dimension: of the matrix [d_out, d_in], however it lies.
  void take(int slot, std::int64_t dimension, const at::Tensor& rows) {
    const Parameters::Slot& s = p_.slot(slot);
    at::Tensor& t = tensors_.at(s.name);
    t = t.dim() == 1
            ? t.index_select(0, rows)
            : out_in(out_in(t, s.axes).index_select(dimension, rows), s.axes)
                  .contiguous();
  }

  const Backbone& backbone_;
  const Parameters& p_;
  nlohmann::json raw_;
  const Sublayers sublayers_;
  Tensors tensors_;
  std::vector<std::string> said_;
  bool narrower_ = false;
};

}  // namespace

NarrowModel narrow_model(const Backbone& backbone, const MergedSlots& merged) {
  return Narrowing(backbone, merged).run();
}

}  // namespace thinwire
