// LT-SFT, lottery-ticket sparse fine-tuning: everything trains for full_steps;
// the k numbers that moved farthest are the mask; everything returns to where
// it began, optimizer and schedule too, and the mask alone trains for the rest
// of the run. Ansell, Ponti, Korhonen & Vulić 2022, "Composable sparse
// fine-tuning for cross-lingual transfer", sec. 3.2. Movement is |theta_1 -
// theta_0|, a global top-k over everything but the task head, which trains
// whole. Differs: the data go on where they were rather than anew; the mask is
// drawn once (n_ft_iterations: 1); no L1 penalty on the movement. The head
// counts inside k unless count_head_in_budget says otherwise, the reference's k
// is without it.
#include "base/error.h"
#include "peft/masked_method.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    mask_fields::kDensity,
    {"full_steps", FieldType::kInt, "1000",
     "steps in which everything trains, to find the mask by"},
    mask_fields::kExclude,
    mask_fields::kCountHead,
    mask_fields::kTrainHead,
    mask_fields::kQuota,
};

class LtSft : public MaskedMethod {
 public:
  explicit LtSft(const Config& config)
      : MaskedMethod("lt_sft", "lt_sft", config, Extreme::kLargest,
                     "full_steps") {
    at_least("full_steps", dense_steps(), 1);
  }

  std::optional<std::int64_t> next_rewind(std::int64_t step) const override {
    if (step < dense_steps()) return dense_steps();
    return std::nullopt;
  }

 protected:
  std::vector<at::Tensor> score(const Backbone& backbone,
                                std::span<const int> slots,
                                const DeclareContext& context) override {
    const Delta* ended = context.ended;
    THINWIRE_ASSERT(ended != nullptr, "lt_sft at step {}: nothing ended",
                    context.step);
    std::vector<at::Tensor> moved = initial_numbers(backbone, slots);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const std::string& name = backbone.parameters().slot(slots[i]).name;
      const int entry = ended->find(name);
      THINWIRE_ASSERT(entry >= 0, "'{}' did not train", name);
      const DeltaEntry& e = ended->entries()[static_cast<std::size_t>(entry)];
      moved[i].sub_(ended->values().narrow(0, e.offset, e.count)).abs_();
    }
    return moved;
  }
};

}  // namespace

const MethodInfo& lt_sft_method() {
  static const MethodInfo kInfo = {
      "lt_sft",
      "the numbers that move farthest in full fine-tuning, rewound (Ansell et "
      "al. 2022)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<LtSft>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
