// Random mask: k numbers of the model that a counter-based generator draws
// train, all others stay; the baseline of every chosen mask. Sung, Nair &
// Raffel 2021, "Training neural networks with fixed sparse masks", sec. 4.1.
//
// The score of number i of the backbone (tensors in its order, heads and
// buffers not counted, excluded ones counted) is output i mod 4 of
// Philox4x32-10 at counter i / 4, key (seed, Purpose::kMask, step of the
// drawing), so that a mask is known wherever its seed is, and excluding a
// tensor moves no other's scores.
#include <bit>
#include <optional>

#include "base/random.h"
#include "peft/masked_method.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    mask_fields::kDensity,
    {"seed", FieldType::kInt, "~", "of the mask; none: train.seed"},
    mask_fields::kExclude,
    mask_fields::kCountHead,
    mask_fields::kTrainHead,
    mask_fields::kQuota,
    mask_fields::kWarmupSteps,
    mask_fields::kRemaskEvery,
    mask_fields::kRemaskUntil,
    mask_fields::kDensityStart,
};

// 2^32 numbers onto the finite floats from 0 up, in their order: a uniform
// float has too few values to tell the numbers of a large model apart.
float finite(std::uint32_t bits) {
  constexpr std::uint64_t kInfinity = 0x7f800000u;
  return std::bit_cast<float>(
      static_cast<std::uint32_t>(bits * kInfinity >> 32));
}

class RandomMask : public MaskedMethod {
 public:
  explicit RandomMask(const Config& config)
      : MaskedMethod("random_mask", "random", config) {
    if (config.at("seed").is_null()) return;
    const auto seed = config.at("seed").get<std::int64_t>();
    at_least("seed", seed, 0);
    seed_ = static_cast<std::uint64_t>(seed);
  }

 protected:
  std::vector<at::Tensor> score(const Backbone& backbone,
                                std::span<const int> slots,
                                const DeclareContext& context) override {
    const PhiloxKey key = make_key(seed_.value_or(context.seed), Purpose::kMask,
                                   static_cast<std::uint64_t>(context.step));
    const Parameters& p = backbone.parameters();
    auto out = by_slot(empty_numbers(backbone, slots), backbone, slots);
    std::uint64_t begin = 0;
    std::size_t next = 0;
    for (int i = 0; i < p.size() && next < slots.size(); ++i) {
      const Parameters::Slot& slot = p.slot(i);
      if (slot.head || slot.buffer) continue;
      if (i == slots[next]) draw(key, begin, out[next++]);
      begin += static_cast<std::uint64_t>(slot.frozen.numel());
    }
    return out;
  }

 private:
  // Of the numbers from `begin` on.
  static void draw(PhiloxKey key, std::uint64_t begin, at::Tensor& scores) {
    auto* score = scores.mutable_data_ptr<float>();
    PhiloxBlock block{};
    for (std::int64_t i = 0; i < scores.numel(); ++i) {
      const std::uint64_t at = begin + static_cast<std::uint64_t>(i);
      if (i == 0 || at % 4 == 0) {
        block = philox(key, {static_cast<std::uint32_t>(at / 4),
                             static_cast<std::uint32_t>(at / 4 >> 32), 0, 0});
      }
      score[i] = finite(block[at % 4]);
    }
  }

  std::optional<std::uint64_t> seed_;
};

}  // namespace

const MethodInfo& random_mask_method() {
  static const MethodInfo kInfo = {
      "random_mask", "numbers drawn at random from a seed (Sung et al. 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<RandomMask>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
