// The exchange that Thinwire exists to avoid, for comparison: the gradient of
// every number of the backbone goes over the wire, and the delta's are picked
// out afterwards. What the code published with FISH masks does, and what any
// trainer does that knows nothing of the mask.
#pragma once

#include <memory>

#include "comm/reducer.h"
#include "peft/delta.h"

namespace thinwire {

class Communicator;
class Parameters;

// Exchanges delta.grads() inside a vector of all numbers of the backbone and of
// the method's own tensors, in buckets of 25 MB; zeros where nothing trains.
// options.buckets are the delta's, and not used. All outlive it.
std::unique_ptr<Reducer> make_dense_reducer(Communicator& comm, Delta& delta,
                                            const Parameters& parameters,
                                            ReducerOptions options);

}  // namespace thinwire
