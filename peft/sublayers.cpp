#include "peft/sublayers.h"

namespace thinwire {

Sublayers sublayers_of(const Backbone& backbone) {
  Sublayers found;
  for (const Site& site : backbone.sites()) {
    if (site.layer < 0) continue;
    if (site.kind == SiteKind::kSublayer) {
      found[{site.stack, site.layer, site.role}].end = &site;
    } else if (site.kind == SiteKind::kLinear) {
      Sublayer& s = found[{site.stack, site.layer, site.role}];
      if (s.out != nullptr) s.in.push_back(s.out);
      s.out = &site;  // the last of them
    }
  }
  return found;
}

}  // namespace thinwire
