/**
 * `answer`, which computes no question twice: the latest answers of the model in use are kept, and questions that occur twice
 * among those asked together are answered once. With another model everything is answered again.
 * @param most answers that are kept; 0: none
 * @param answer gives one answer for each question, in the same order; the same question always gets the same answer
 */
export function withRecentAnswers<Model extends object, Answer>(
  most: number,
  answer: (model: Model, questions: readonly string[]) => Promise<Answer[]>,
): (model: Model, questions: readonly string[]) => Promise<Answer[]> {
  let inUse: Model | undefined;
  let recent = new Map<string, Answer>(); // the latest last
  return async (model, questions) => {
    if (model !== inUse) {
      inUse = model;
      recent = new Map();
    }
    const kept = recent;
    const fresh = [...new Set(questions)].filter((question) => !kept.has(question));
    const answers = fresh.length > 0 ? await answer(model, fresh) : [];
    const made = new Map(fresh.map((question, i) => [question, answers[i]]));
    const all = questions.map((question) => made.get(question) ?? kept.get(question)!);
    questions.forEach((question, i) => {
      kept.delete(question);
      kept.set(question, all[i]);
    });
    for (const question of kept.keys()) {
      if (kept.size <= most) break;
      kept.delete(question);
    }
    return all;
  };
}
