#include "dist/agree_inputs.h"

#include <span>
#include <string>

#include "base/hash.h"
#include "comm/communicator.h"
#include "dist/options.h"
#include "dist/together.h"
#include "dist/virtual_shards.h"

namespace thinwire {

void agree_on_inputs(TrainRun& run) {
  Communicator& comm = *run.comm;
  agree(comm, "the configuration",
        hash128(std::as_bytes(std::span(run.config_text))).hex());
  agree(comm, "the backbone", run.identity.hex());
  agree(comm, "whether to resume", run.resume ? "resume" : "new run");
  together(comm, [&] {
    check_options(run.options);
    if (run.options.deterministic) {
      virtual_shards(run.options, comm.size());  // throws if it cannot be cut
      run.options.exchange.algorithm = VirtualShards::kAlgorithm;
      run.options.exchange.overlap = false;
    }
    if (run.options.dropout >= 0)
      run.backbone->set_dropout(run.options.dropout);
    return true;
  });
  agree(comm, "the training data",
        together(comm, [&] { return run.train->digest().hex(); }));
  agree(comm, "the evaluation data", together(comm, [&] {
          std::string all = run.eval ? run.eval->digest().hex() : "none";
          for (const TaskEval& t : run.task_evals) {
            all += " " + t.name + " " + t.folder->digest().hex();
          }
          return all;
        }));
}

}  // namespace thinwire
