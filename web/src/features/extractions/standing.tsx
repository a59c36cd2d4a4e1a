// How far an extraction is, why it ended, and what a replay has found.
import { problemOfStatus } from "../../api/errors";
import { type Extraction, Extraction_State, type Replay } from "../../gen/millm/inspection/v1/inspection_pb";
import { Callout } from "../../ui/callout";
import { Progress } from "../../ui/progress";
import { doneText, fractionOf, isActive, paceText, titleOf } from "./describe";

export function Standing({ extraction }: { extraction: Extraction }) {
  const { state, error, replay } = extraction;
  const fraction = fractionOf(extraction);
  const shown = fraction !== undefined && state !== Extraction_State.SUCCEEDED;
  return (
    <div className="flex flex-col gap-2">
      {(state === Extraction_State.RUNNING || shown) && (
        <Progress
          label={titleOf(extraction)}
          fraction={fraction}
          tone={isActive(extraction) ? "accent" : "warn"}
        />
      )}
      <p className="flex flex-wrap justify-between gap-x-4 text-xs text-ink-soft tabular-nums">
        <span>
          {shown && `${Math.floor(fraction * 100)}% • `}
          {doneText(extraction)}
        </span>
        <span>{paceText(extraction)}</span>
      </p>
      {state === Extraction_State.FAILED && (
        <Callout tone="bad">{problemOfStatus(error)?.message ?? "The extraction has failed."}</Callout>
      )}
      {state === Extraction_State.INTERRUPTED && (
        <Callout tone="warn">The server stopped in its middle. What is written is kept: resume it.</Callout>
      )}
      {replay && <ReplayResult replay={replay} />}
    </div>
  );
}

export function ReplayResult({ replay }: { replay: Replay }) {
  if (replay.identical) {
    return <Callout tone="info">{replay.message || "The replay is identical, to the byte."}</Callout>;
  }
  const { file, sample, position, message } = replay;
  return (
    <Callout tone="bad">
      {message || "The replay differs."}
      {file !== "" && (
        <span className="block text-xs">
          {`First difference: ${file}, sample ${sample.toLocaleString("en")}, position ${position.toLocaleString("en")}`}
        </span>
      )}
    </Callout>
  );
}
