// Refuses a tree that is nested deeper than anybody writes: React would show it level by level, on its stack.
import type { Nodes, Root } from "hast";

const MOST_LEVELS = 100;

export function rehypeShallow() {
  return (tree: Root) => {
    let level: Nodes[] = [tree];
    for (let depth = 0; level.length > 0; depth += 1) {
      if (depth > MOST_LEVELS) {
        throw new RangeError(`The answer is nested deeper than ${MOST_LEVELS} levels.`);
      }
      level = level.flatMap((node) => ("children" in node ? node.children : []));
    }
  };
}
