// The modules that a search chooses from, all of them in the backbone at once,
// each behind a gate.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "peft/structure.h"

namespace thinwire {

class GatedModules {
 public:
  // Declares what `sparse_structure` names, with its head, and puts it into the
  // backbone, which outlives this; whatever was attached before is not. The
  // same on every rank.
  GatedModules(Backbone& backbone, const StructureMethod& structure,
               std::uint64_t seed);
  GatedModules(const GatedModules&) = delete;
  GatedModules& operator=(const GatedModules&) = delete;

  const std::vector<DeltaModule>& modules() const { return modules_; }
  const std::vector<std::int64_t>& counts() const { return counts_; }
  // As "lora at encoder.block.0.layer.0.SelfAttention.q".
  std::string name(std::size_t module) const;

  Delta& delta() { return delta_; }
  // To be told of values that have changed.
  void values_changed() { delta_.write_back(backbone_.parameters()); }
  void set_gates(std::span<const double> z);
  // What passes have added to the gates' gradient since zero_grads(), on this
  // rank. pull_grads() is part of it.
  std::vector<double> gate_grads();
  void zero_grads();

  // The method's config with these modules alone, by their numbers here.
  Config chosen(std::span<const int> modules) const;

 private:
  Backbone& backbone_;
  const StructureMethod& structure_;
  std::vector<DeltaModule> modules_;
  std::vector<std::int64_t> counts_;
  Delta delta_;
  at::Tensor gates_;  // fp32 [n], where the weights are
};

// Numbers that modules may have in all, given as a share of the backbone's
// below 1. Throws UsageError where no choice is left: nothing fits, or
// everything does.
std::int64_t numbers_within(double budget, const Backbone& backbone,
                            const GatedModules& modules);

}  // namespace thinwire
