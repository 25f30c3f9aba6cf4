#include "peft/interop/weights_file.h"

#include "base/error.h"
#include "models/parameters.h"
#include "models/safetensors.h"
#include "models/sites.h"

namespace thinwire {
namespace {

// The tensor as the bound model uses it, fp32.
at::Tensor tensor_now(const DeltaEntry& e, const Parameters& parameters) {
  return parameters.get(parameters.require(e.target), {})
      .detach()
      .to(at::kFloat);
}

}  // namespace

void write_weights_file(const std::string& path, const Delta& delta,
                        const Parameters& parameters, const Digest& backbone,
                        WeightsForm form) {
  NamedTensors tensors;
  for (const DeltaEntry& e : delta.entries()) {
    if (e.target.empty()) {
      fail<UsageError>(
          "'{}' is no tensor of the model but stands beside them; full and "
          "sparse files hold the model's own",
          e.name);
    }
    const at::Tensor now = tensor_now(e, parameters);
    if (form == WeightsForm::kFull || e.kind == EntryKind::kDense) {
      tensors.emplace_back(e.target, now);
      continue;
    }
    tensors.emplace_back(e.target + ".index", e.index);
    tensors.emplace_back(e.target + ".values",
                         now.reshape({-1}).index_select(0, e.index));
  }
  write_safetensors(path, tensors, {{"thinwire_backbone", backbone.hex()}});
}

}  // namespace thinwire
