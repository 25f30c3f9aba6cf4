// Small helpers of the tests in this folder.
#pragma once

#include <ATen/ops/full.h>

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/architectures.h"
#include "tasks/task.h"
#include "tests/harness/golden.h"

namespace thinwire::test {

inline Sample sample(std::uint64_t id, std::vector<std::int32_t> input,
                     double label = 0, std::vector<std::int32_t> target = {}) {
  Sample out;
  out.id = id;
  out.input = std::move(input);
  out.label = label;
  out.target = std::move(target);
  return out;
}

// Every field of a task that writes text, at its default unless changed.
inline TaskConfig writing_config(const TaskConfig& changes = {}) {
  TaskConfig config = {{"max_new_tokens", 128},
                       {"min_new_tokens", 0},
                       {"num_beams", 1},
                       {"length_penalty", 1.0},
                       {"early_stopping", "false"},
                       {"no_repeat_ngram_size", 0},
                       {"do_sample", false},
                       {"temperature", 1.0},
                       {"top_k", 50},
                       {"top_p", 1.0},
                       {"sample_seed", 1},
                       {"metrics", nullptr},
                       {"rouge_stemmer", false},
                       {"label_smoothing", 0.0}};
  if (!changes.is_null()) config.update(changes);
  return config;
}

inline std::unique_ptr<Task> writer_for(const Backbone& backbone,
                                        const TaskConfig& changes) {
  return find_task(backbone.config().decoder_only ? "lm" : "text_to_text")
      .make(writing_config(changes));
}

// The target must not matter to what is written; it has to be there.
inline std::vector<Sample> samples_of(const nlohmann::ordered_json& inputs) {
  std::vector<Sample> out;
  for (const auto& ids : inputs) {
    out.push_back(
        sample(out.size(), ids.get<std::vector<std::int32_t>>(), 0, {7, 1}));
  }
  return out;
}

// A golden model in which `eos` ends a text, its distributions over the next
// token made more or less certain. config_folder: another one's configs.
inline std::unique_ptr<Backbone> model_of(const std::string& name,
                                          std::int64_t eos, double sharpen = 1,
                                          std::string config_folder = {}) {
  class Scale : public LinearAttachment {
   public:
    explicit Scale(at::Tensor scale) : scale_(std::move(scale)) {}
    at::Tensor scale_out(const ForwardContext&) override { return scale_; }

   private:
    at::Tensor scale_;
  };
  const std::string folder = golden_path(name);
  ModelConfig config =
      read_model_config(config_folder.empty() ? folder : config_folder);
  config.eos_id = eos;
  auto backbone = make_backbone(config, *open_weights(folder, config));
  backbone->attach(backbone->find_site(SiteKind::kLinear, "lm_head"),
                   std::make_shared<Scale>(
                       at::full({config.vocab_size}, sharpen, at::kFloat)));
  return backbone;
}

// A task with its head on a golden model.
struct Fixture {
  std::unique_ptr<Backbone> backbone;
  std::unique_ptr<Task> task;

  Fixture(const std::string& model, std::string_view kind,
          const TaskConfig& config)
      : backbone(load_backbone(golden_path(model))),
        task(find_task(kind).make(config)) {
    const auto source =
        open_hf_folder(golden_path(model), backbone->config().architecture);
    task->add_head(*backbone, *source);
  }

  BackboneInput collate(const std::vector<Sample>& samples) const {
    return task->collate(samples, backbone->config());
  }
};

template <class Call>
std::string usage_error(Call call) {
  try {
    call();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace thinwire::test
