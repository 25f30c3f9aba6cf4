#include "dist/search.h"

#include <fmt/ranges.h>

#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/watch.h"
#include "data/loader.h"
#include "dist/bilevel.h"
#include "dist/options.h"
#include "dist/schedule.h"
#include "dist/together.h"

namespace thinwire {
namespace {

// Drawings of gates in a step.
enum Drawing : std::uint32_t { kForAlpha, kForModules };

class Search {
 public:
  explicit Search(SearchRun& run)
      : run_(run), comm_(*run.comm), options_(run.options) {}

  SearchResult search();

 private:
  void agree_on_inputs();
  std::unique_ptr<Loader> open(const std::shared_ptr<const ShardFolder>& folder,
                               std::int64_t batch_size) const;
  Bilevel::Pass pass(const BackboneInput& in, std::int64_t step) const;
  BackboneInput next(Loader& loader) const;

  SearchRun& run_;
  Communicator& comm_;
  const TrainOptions& options_;
};

void Search::agree_on_inputs() {
  agree(comm_, "the backbone", run_.identity.hex());
  agree(comm_, "the modules", run_.modules->delta().hash().hex());
  together(comm_, [&] {
    check_options(options_);
    if (options_.accumulation > 1) {
      fail<UsageError>(
          "search: train.accumulation must be 1, got {}; raise "
          "data.batch_size",
          options_.accumulation);
    }
    if (options_.dropout >= 0) run_.backbone->set_dropout(options_.dropout);
    return true;
  });
  agree(comm_, "the training data",
        together(comm_, [&] { return run_.train->digest().hex(); }));
  agree(comm_, "the gates' data",
        together(comm_, [&] { return run_.valid->digest().hex(); }));
}

std::unique_ptr<Loader> Search::open(
    const std::shared_ptr<const ShardFolder>& folder,
    std::int64_t batch_size) const {
  TrainOptions options = options_;
  options.deterministic = false;  // one batch a step
  options.batch_size = batch_size;
  return make_loader(folder,
                     loader_options(options, comm_.rank(), comm_.size()));
}

BackboneInput Search::next(Loader& loader) const {
  return run_.task->collate(loader.next().samples, run_.backbone->config());
}

Bilevel::Pass Search::pass(const BackboneInput& in, std::int64_t step) const {
  return [this, &in, step] {
    ForwardContext ctx;
    ctx.training = true;
    ctx.checkpoint_blocks = options_.checkpoint_blocks;
    ctx.seed = options_.seed;
    ctx.step = static_cast<std::uint64_t>(step);
    ctx.tasks = in.tasks;
    return run_.task->loss(*run_.backbone, in, ctx);
  };
}

SearchResult Search::search() {
  agree_on_inputs();
  GatedModules& modules = *run_.modules;
  SearchResult result;
  result.budget = together(comm_, [&] {
    return numbers_within(run_.search.budget, *run_.backbone, modules);
  });
  const auto n = modules.counts().size();
  Bilevel bilevel(comm_, modules,
                  {modules.counts(), result.budget, run_.search.temperature},
                  options_,
                  {.second_order = run_.search.second_order,
                   .gate_clip = run_.search.clip});
  const auto [train, valid] = together(comm_, [&] {
    const std::int64_t batch = options_.batch_size;
    return std::pair(
        open(run_.train, batch),
        open(run_.valid,
             run_.search.batch_size > 0 ? run_.search.batch_size : batch));
  });
  const std::int64_t steps =
      total_steps(options_, run_.train->index().samples, comm_.size());
  const Schedule schedule = parse_schedule(options_.schedule);
  for (std::int64_t step = 0; step < steps; ++step) {
    report_step(step + 1);
    const auto [train_in, valid_in] =
        together(comm_, [&] { return std::pair(next(*train), next(*valid)); });
    const auto rate = [&](double lr) {
      return learning_rate(schedule, lr, options_.warmup, steps, step);
    };
    const auto noise = [&](Drawing drawing) {
      return gate_noise(n, options_.seed, static_cast<std::uint64_t>(step),
                        drawing);
    };
    const Bilevel::Outcome outcome =
        bilevel.step({.lr = rate(options_.lr),
                      .gate_lr = rate(run_.search.lr),
                      .noise = noise(kForAlpha),
                      .noise_of_step = noise(kForModules),
                      .train = pass(train_in, step),
                      .valid = pass(valid_in, step)});
    if (run_.on_step) {
      run_.on_step({.step = step + 1,
                    .steps = steps,
                    .train_loss = outcome.train_loss,
                    .valid_loss = outcome.valid_loss});
    }
  }
  result.probabilities = bilevel.probabilities();
  result.kept = within_budget(result.probabilities, bilevel.budget());
  for (const int i : result.kept) {
    result.numbers += modules.counts()[static_cast<std::size_t>(i)];
  }
  agree(comm_, "the structure found",
        fmt::format("{}", fmt::join(result.kept, " ")));
  return result;
}

}  // namespace

SearchResult run_search(SearchRun& run) { return Search(run).search(); }

}  // namespace thinwire
