// What a test opened is closed in the reverse order, all of it, and every fault on the way is
// told. (The runner's own hooks run in the order of their registration and stop at the first.)

const stacks = new WeakMap();

/** Closes with `close` when the test ends. @returns the thing itself */
export function closing(t, thing, close) {
  let stack = stacks.get(t);
  if (!stack) {
    stack = [];
    stacks.set(t, stack);
    t.after(() => unwind(stack));
  }
  stack.push(() => close(thing));
  return thing;
}

async function unwind(stack) {
  const faults = [];
  while (stack.length) {
    try {
      await stack.pop()();
    } catch (error) {
      faults.push(error);
    }
  }
  if (faults.length === 1) throw faults[0];
  if (faults.length) throw new AggregateError(faults, faults.map(String).join("\n"));
}
