// The state of an extraction as a word; the colour only repeats it.
import { Extraction_State } from "../../gen/millm/inspection/v1/inspection_pb";
import { stateLabel } from "./describe";

const LOOKS: Partial<Record<Extraction_State, string>> = {
  [Extraction_State.RUNNING]: "bg-warn-soft text-warn",
  [Extraction_State.SUCCEEDED]: "bg-good-soft text-good",
  [Extraction_State.FAILED]: "bg-bad-soft text-bad",
  [Extraction_State.INTERRUPTED]: "bg-bad-soft text-bad",
};

export function StateBadge({ state }: { state: Extraction_State }) {
  return (
    <span
      data-testid="extraction-state"
      className={`shrink-0 rounded-full px-2.5 py-0.5 text-xs font-semibold ${LOOKS[state] ?? "bg-sunken text-ink-soft"}`}
    >
      {stateLabel(state)}
    </span>
  );
}
