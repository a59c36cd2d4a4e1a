// Components whose code comes when it is first needed, or a moment after the page has been shown.
import { type ComponentType, lazy } from "react";

const loads: (() => Promise<unknown>)[] = [];

// The component that a module exports under `name`. It suspends until the module is there.
export function lazily<Name extends string, Props extends object>(
  load: () => Promise<Record<Name, ComponentType<Props>>>,
  name: Name,
) {
  loads.push(load);
  return lazy(async () => ({ default: (await load())[name] }));
}

// Fetches what has been declared so far: a click then opens at once, and works while the server is away.
export function loadAhead() {
  for (const load of loads) {
    // A failure is told when the component is needed.
    load().catch(() => {});
  }
}
