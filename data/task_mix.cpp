#include "data/task_mix.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/random.h"

namespace thinwire {

std::vector<double> task_probabilities(std::span<const std::int64_t> samples,
                                       const MixingOptions& o) {
  using Rule = MixingOptions::Rule;
  if (o.cap < 0)
    fail<UsageError>("mixing.cap: must be at least 0, got {}", o.cap);
  if (!(o.temperature > 0) || !std::isfinite(o.temperature)) {
    fail<UsageError>("mixing.temperature: must be above 0, got {}",
                     o.temperature);
  }
  THINWIRE_ASSERT(o.weights.empty() || o.weights.size() == samples.size(),
                  "{} weights of {} tasks", o.weights.size(), samples.size());
  const double exponent = o.rule == Rule::kEqual         ? 0
                          : o.rule == Rule::kTemperature ? 1 / o.temperature
                                                         : 1;
  std::vector<double> out;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::int64_t n = o.cap > 0 ? std::min(samples[i], o.cap) : samples[i];
    const double weight = o.weights.empty() ? 1 : o.weights[i];
    if (!(weight > 0) || !std::isfinite(weight)) {
      fail<UsageError>("task {}: its weight must be above 0, got {}", i,
                       weight);
    }
    out.push_back(weight * std::pow(static_cast<double>(n), exponent));
  }
  const double sum = std::accumulate(out.begin(), out.end(), 0.0);
  for (double& p : out) p /= sum;
  return out;
}

TaskMix::TaskMix(std::span<const double> probabilities, std::uint64_t seed)
    : seed_(seed ^ name_seed("task mix")) {
  const auto tasks = static_cast<std::int64_t>(probabilities.size());
  if (tasks < 1 || tasks > kBlock) {
    fail<UsageError>("data: from 1 to {} tasks can be mixed, got {}", kBlock,
                     tasks);
  }
  // One place each, the rest by largest remainder.
  std::vector<std::pair<double, std::size_t>> remainders;
  std::int64_t left = kBlock;
  for (std::size_t t = 0; t < probabilities.size(); ++t) {
    const double exact = probabilities[t] * static_cast<double>(kBlock);
    places_.push_back(
        std::max<std::int64_t>(1, static_cast<std::int64_t>(exact)));
    left -= places_.back();
    remainders.emplace_back(static_cast<double>(places_.back()) - exact, t);
  }
  std::ranges::sort(remainders);
  for (std::size_t i = 0; left > 0; i = (i + 1) % remainders.size(), --left) {
    ++places_[remainders[i].second];
  }
  // What the smallest were given beyond their share is the largest's.
  for (; left < 0; ++left) --*std::ranges::max_element(places_);
}

std::vector<std::int32_t> TaskMix::block(std::uint64_t number) const {
  std::vector<std::int32_t> in_turn;
  in_turn.reserve(kBlock);
  for (std::size_t t = 0; t < places_.size(); ++t) {
    in_turn.insert(in_turn.end(), static_cast<std::size_t>(places_[t]),
                   static_cast<std::int32_t>(t));
  }
  const PhiloxKey key = make_key(seed_, Purpose::kOrder, number);
  std::vector<std::int32_t> out(in_turn.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = in_turn[permute_index(i, out.size(), key)];
  }
  return out;
}

TaskMix::Draw TaskMix::at(std::uint64_t draw) {
  const std::uint64_t number = draw / kBlock;
  if (number != number_) {
    std::vector<std::uint64_t> count;
    for (const std::int64_t places : places_) {
      count.push_back(number * static_cast<std::uint64_t>(places));
    }
    kept_.clear();
    for (const std::int32_t task : block(number)) {
      kept_.push_back({task, count[static_cast<std::size_t>(task)]++});
    }
    number_ = number;
  }
  return kept_[draw % kBlock];
}

}  // namespace thinwire
