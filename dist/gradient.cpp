#include "dist/gradient.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "ops/optimizer_pass.h"

namespace thinwire {

std::vector<bool> active_entries(const Delta& delta, std::int64_t step,
                                 std::span<const std::int32_t> tasks) {
  return active_entries(delta, step, step, tasks);
}

std::vector<bool> active_entries(const Delta& delta, std::int64_t first,
                                 std::int64_t last,
                                 std::span<const std::int32_t> tasks) {
  std::vector<bool> active;
  active.reserve(delta.entries().size());
  for (const DeltaEntry& e : delta.entries()) {
    const Activity& a = e.active;
    const bool task =
        a.tasks.empty() ||
        std::any_of(a.tasks.begin(), a.tasks.end(), [&](std::int32_t t) {
          return std::find(tasks.begin(), tasks.end(), t) != tasks.end();
        });
    active.push_back(task && last >= a.from_step && first < a.until_step);
  }
  return active;
}

std::vector<std::int32_t> tasks_asked(const Delta& delta) {
  std::set<std::int32_t> tasks;
  for (const DeltaEntry& e : delta.entries()) {
    tasks.insert(e.active.tasks.begin(), e.active.tasks.end());
  }
  return {tasks.begin(), tasks.end()};
}

GradientScale scale_gradient(Delta& delta, const std::vector<bool>& active,
                             double weight_scale, double clip) {
  const float* grads = delta.grads().const_data_ptr<float>();
  std::map<std::string_view, double> squares;  // by clip group
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    const DeltaEntry& e = delta.entries()[i];
    if (!active[i]) continue;
    const auto g = static_cast<std::size_t>(e.group);
    squares[delta.groups()[g].clip_group] +=
        sum_of_squares(grads + e.offset, e.count);
  }
  GradientScale result;
  double total = 0;
  for (const auto& [name, sum] : squares) total += sum;
  result.finite = std::isfinite(total);
  result.norm = std::sqrt(total) * weight_scale;
  for (const DeltaGroup& group : delta.groups()) {
    double factor = 1;
    const auto found = squares.find(group.clip_group);
    if (clip > 0 && found != squares.end()) {
      const double norm = std::sqrt(found->second) * weight_scale;
      factor = std::min(1.0, clip / (norm + 1e-6));
    }
    result.group.push_back(weight_scale * factor);
  }
  return result;
}

std::string first_nonfinite(Delta& delta) {
  const float* grads = delta.grads().const_data_ptr<float>();
  for (const DeltaEntry& e : delta.entries()) {
    if (!all_finite(grads + e.offset, e.count)) return e.name;
  }
  return "";
}

}  // namespace thinwire
