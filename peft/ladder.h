// The side network of Ladder Side-Tuning (peft/methods/lst.cpp): a narrow model
// of the backbone's own blocks, fed by the backbone's layers through ladders.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "models/side_network.h"
#include "peft/side_model.h"

namespace thinwire {

// y = W x + b; W [out, in], b [out].
struct Affine {
  at::Tensor weight, bias;
  at::Tensor operator()(const at::Tensor& x) const;
};

struct LadderStack {
  Affine first;                  // of the embeddings
  std::vector<Affine> down;      // of each side layer, by what it reads
  std::vector<at::Tensor> gate;  // [1] of each
};

struct LadderParts {
  LadderStack encoder, decoder;
  Affine up;  // of the decoder's end
  double temperature = 0.1;
  bool frozen_dropout = false;  // the backbone's stream drops out in training
};

// side: its tensors are leaves. backbone: what the network is attached to; its
// dropout is the side's.
std::shared_ptr<SideNetwork> make_ladder(const Backbone& backbone,
                                         std::unique_ptr<Backbone> side,
                                         SideLayers layers, LadderParts parts);

}  // namespace thinwire
