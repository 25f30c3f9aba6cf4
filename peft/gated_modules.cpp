#include "peft/gated_modules.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace thinwire {

GatedModules::GatedModules(Backbone& backbone, const StructureMethod& structure,
                           std::uint64_t seed)
    : backbone_(backbone),
      structure_(structure),
      modules_(structure.modules(backbone)) {
  const ModuleFactory& factory = structure.factory();
  DeltaBuilder builder;
  builder.method_config(config_text(structure.id(), structure.config()));
  for (const DeltaModule& m : modules_) {
    factory.declare(builder, backbone, m, seed, /*gated=*/true);
    counts_.push_back(factory.count(backbone, m));
  }
  if (structure.config().at("train_head").get<bool>()) {
    declare_head(builder, backbone);
  }
  delta_ = builder.build();
  Parameters& p = backbone.parameters();
  if (!p.device().is_cpu()) delta_.place(p.device());
  gates_ = at::ones({std::ssize(modules_)},
                    at::TensorOptions().dtype(at::kFloat).device(p.device()));
  gates_.requires_grad_(true);
  backbone.detach_all();
  p.freeze_all();
  delta_.bind(p);
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    factory.attach(backbone, delta_, modules_[i],
                   Gate{gates_, static_cast<std::int64_t>(i)});
  }
}

std::string GatedModules::name(std::size_t module) const {
  const DeltaModule& m = modules_[module];
  return fmt::format("{} at {}", name_of(m.kind),
                     backbone_.sites()[static_cast<std::size_t>(m.site)].name);
}

void GatedModules::set_gates(std::span<const double> z) {
  THINWIRE_ASSERT(z.size() == modules_.size(), "{} gates for {} modules",
                  z.size(), modules_.size());
  at::Tensor host = at::empty({std::ssize(z)}, at::kFloat);
  std::ranges::transform(z, host.mutable_data_ptr<float>(),
                         [](double v) { return static_cast<float>(v); });
  gates_.detach().copy_(host);
}

std::vector<double> GatedModules::gate_grads() {
  delta_.pull_grads();
  if (!gates_.grad().defined()) return std::vector<double>(modules_.size(), 0);
  const at::Tensor host = gates_.grad().cpu();
  const float* data = host.const_data_ptr<float>();
  return {data, data + host.numel()};
}

void GatedModules::zero_grads() {
  delta_.zero_grads();
  gates_.mutable_grad().reset();
}

Config GatedModules::chosen(std::span<const int> modules) const {
  Config config = structure_.config();
  for (const ModuleKind kind : kModuleKinds) {
    Config names = Config::array();
    for (const int i : modules) {
      const DeltaModule& m = modules_[static_cast<std::size_t>(i)];
      if (m.kind != kind) continue;
      names.push_back(backbone_.sites()[static_cast<std::size_t>(m.site)].name);
    }
    config[std::string(name_of(kind))] = names.empty() ? Config() : names;
  }
  config["found_on"] = shape_of(backbone_);
  return config;
}

std::int64_t numbers_within(double budget, const Backbone& backbone,
                            const GatedModules& modules) {
  const auto all = backbone.parameters().count(/*with_head=*/false);
  const auto numbers = static_cast<std::int64_t>(
      budget < 1 ? std::floor(budget * static_cast<double>(all)) : budget);
  const auto& counts = modules.counts();
  const auto least = std::ranges::min_element(counts);
  if (numbers < *least) {
    fail<UsageError>(
        "search: no module fits a budget of {} numbers: the smallest, {}, has "
        "{}; raise search.budget",
        numbers, modules.name(static_cast<std::size_t>(least - counts.begin())),
        *least);
  }
  const auto together = std::reduce(counts.begin(), counts.end());
  if (numbers >= together) {
    fail<UsageError>(
        "search: all {} modules fit a budget of {} numbers, they have {}; "
        "train them as they are, or lower search.budget",
        counts.size(), numbers, together);
  }
  return numbers;
}

}  // namespace thinwire
