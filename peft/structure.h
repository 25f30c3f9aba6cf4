// What a search needs of the method `sparse_structure`: the modules that it
// names, one by one.
#pragma once

#include <string>
#include <vector>

#include "peft/delta_modules.h"
#include "peft/method.h"

namespace thinwire {

class StructureMethod : public Method {
 public:
  virtual const Config& config() const = 0;
  virtual const ModuleFactory& factory() const = 0;
  // By kind, then in the backbone's order. Throws UsageError.
  virtual std::vector<DeltaModule> modules(const Backbone& backbone) const = 0;
};

// `found_on`: architecture, layers and width.
std::string shape_of(const Backbone& backbone);

}  // namespace thinwire
