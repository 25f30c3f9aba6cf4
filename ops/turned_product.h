// The tiled product of a few rows, turned round. Internal to ops/.
#pragma once

#include "ops/matmul_tiles.h"

namespace thinwire {

// Whether turned_product() is the faster one: b is [n, k] and a has so few rows
// that to transpose these is less work than to transpose b.
bool better_turned(const Product& p);

// As tiled_product(), computed as out^T = b a^T: b is read where it lies, row
// by row and as fast as it is multiplied. The same bits.
void turned_product(const Product& p, at::ScalarType type);

}  // namespace thinwire
