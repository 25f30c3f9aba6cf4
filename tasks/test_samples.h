// Small helpers of the tests in this folder.
#pragma once

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
