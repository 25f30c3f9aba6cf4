// A search for the gates that are worth their numbers: gates learn on one set
// of examples what modules, trained on another, are good for.
// Hu et al. 2022, "Sparse structure search for delta tuning", sec. 3.3, as
// DARTS (Liu et al. 2019) has it. One step, w the delta's values, eta their
// learning rate:
//   w'     one optimizer step from w on the training batch
//   g      d L_valid(w') / d alpha
//          - eta (d L_train(w+) - d L_train(w-)) / d alpha / (2 e),
//          w+- = w +- e v, v = d L_valid(w') / d w', e = 0.01 / |v|
//   alpha  an AdamW step along g, clipped
//   w      an optimizer step on the training batch, gates drawn anew
// First order: w' = w, and the second term is left out. Losses are means over
// all ranks' examples, which hold the same alpha and w throughout. w', w+ and
// w- take the place of w in the delta, so there is no second model, only a few
// vectors as long as the delta.
// Differs from the released code: all passes of a step draw the same dropout.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dist/optimizer.h"
#include "peft/budget_gates.h"
#include "peft/gated_modules.h"

namespace thinwire {

class Communicator;

struct BilevelOptions {
  bool second_order = true;
  double gate_clip = 2;  // of g; 0: off
};

class Bilevel {
 public:
  // All outlive it; train: the optimizer of w and its clipping.
  Bilevel(Communicator& comm, GatedModules& modules, GateBudget budget,
          const TrainOptions& train, const BilevelOptions& options);

  // The loss of this rank's part of a batch, with a graph.
  using Pass = std::function<LossTerms()>;
  struct Inputs {
    double lr = 0, gate_lr = 0;
    std::vector<double> noise, noise_of_step;  // u: for g, for the step of w
    Pass train, valid;
  };
  struct Outcome {
    double train_loss = 0, valid_loss = 0;
    std::vector<double> gradient;  // g, before clipping
  };
  // Blocks on all ranks. Throws what failed on any rank, on every rank; Error
  // where a gradient is not finite.
  Outcome step(const Inputs& in);

  std::vector<double> alpha() const;
  std::vector<double> probabilities() const {
    return open_probabilities(alpha(), budget_);
  }
  const GateBudget& budget() const { return budget_; }

 private:
  // Of the mean loss of all ranks; d w lies summed in the delta, to be
  // multiplied with `scale`.
  struct Gradient {
    double loss = 0, scale = 0;
    std::vector<double> gates;
  };
  Gradient gradient(const Pass& pass);
  void move_modules(double lr, double scale, double clip);
  // - eta (d L_train(w+) - d L_train(w-)) / d z / (2 e), along v.
  std::vector<double> curvature(const Pass& train, const at::Tensor& v,
                                double lr);
  void move_alpha(const std::vector<double>& gradient, double lr);

  Communicator& comm_;
  GatedModules& modules_;
  const GateBudget budget_;
  const double clip_;
  const BilevelOptions options_;
  Optimizer optimizer_;
  Delta alpha_;
  Optimizer alpha_optimizer_;
};

}  // namespace thinwire
