// Blocks computed again in backward: the same bits as blocks kept.
#include <gtest/gtest.h>

#include "models/test_models.h"

namespace thinwire {
namespace {

struct Pass {
  at::Tensor out;
  std::vector<at::Tensor> grads;  // of all parameters
};

Pass pass(const std::string& name, bool checkpoint) {
  const auto backbone = load_backbone(golden_path(name));
  backbone->set_dropout(0.1);
  train_everything(*backbone);
  const SafetensorsFile golden(golden_path(name) + "/golden.safetensors");
  const HfBatch batch = golden_inputs(golden, backbone->config());
  ForwardContext ctx;
  ctx.training = true;
  ctx.seed = 3;
  ctx.step = 5;
  ctx.checkpoint_blocks = checkpoint;
  Pass out;
  out.out = backbone->forward(batch.input, ctx).hidden;
  out.out.square().sum().backward();
  const Parameters& p = backbone->parameters();
  for (int i = 0; i < p.size(); ++i) {
    out.grads.push_back(p.slot(i).leaf.grad());
  }
  return out;
}

TEST(CheckpointedBlocks, SameBits) {
  for (const char* name : {"t5_tied", "t5_gated", "bert_classify", "gpt2_lm"}) {
    SCOPED_TRACE(name);
    const Pass kept = pass(name, false), again = pass(name, true);
    EXPECT_TRUE(kept.out.equal(again.out));
    ASSERT_EQ(kept.grads.size(), again.grads.size());
    int found = 0;
    for (std::size_t i = 0; i < kept.grads.size(); ++i) {
      ASSERT_EQ(kept.grads[i].defined(), again.grads[i].defined()) << i;
      if (!kept.grads[i].defined()) continue;
      EXPECT_TRUE(kept.grads[i].equal(again.grads[i])) << i;
      ++found;
    }
    EXPECT_GT(found, 20);
  }
}

}  // namespace
}  // namespace thinwire
