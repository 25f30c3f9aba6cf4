// Several models' answers to one sample as one. Lester et al. 2021, "The power
// of scale for parameter-efficient prompt tuning", sec. 6: prompts that were
// trained apart answer together, by majority.
//   classes  what most say; where equally many say two, the one of the higher
//            probability, summed over all members
//   values   the mean
//   texts    what most wrote, token by token; where equally many wrote two, the
//            one of the higher score, summed over its writers
// What is equal even then goes to the first of the members.
#pragma once

#include <cstdint>
#include <span>

#include "tasks/task.h"

namespace thinwire {

struct Vote {
  // scores: the mean of the members'; of a text the score is the mean of its
  // writers'.
  Prediction answer;
  std::size_t member = 0;  // the first who says so; of values: the first
  std::int64_t votes = 1;  // how many say so; of values: all
};

// members: at least one, of the same sample. One alone is itself, whatever it
// says; several losses are no answers (InternalError).
Vote vote(Answer answer, std::span<const Prediction> members);

// What evaluation makes of it. members: what it found of each. The loss is the
// mean of theirs, that of a value its own squared error; all else of a text is
// its first writer's.
EvalRow voted_row(Answer answer, const Vote& vote,
                  std::span<const EvalRow> members);

}  // namespace thinwire
