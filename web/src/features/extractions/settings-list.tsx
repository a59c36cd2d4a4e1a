// What was chosen for an extraction.
import type { ReactNode } from "react";
import { Link } from "react-router";
import type { Extraction } from "../../gen/millm/inspection/v1/inspection_pb";
import { plural } from "../../ui/format";
import { dtypeLabel, shortList } from "./describe";

export function SettingsList({ extraction }: { extraction: Extraction }) {
  const { config, modelId, modelHandle, datasetHandle, batchSize } = extraction;
  const settings = config?.settings;
  const yes = (told: boolean | undefined) => (told ? "Yes" : "No");
  const column = config?.column ? ` (${config.column})` : "";
  const shards = config && config.shardCount > 1 ? `${config.shardIndex} of ${config.shardCount}` : "";
  return (
    <dl className="grid grid-cols-2 gap-x-6 gap-y-2.5 text-sm sm:grid-cols-4">
      <Fact
        name="Model"
        value={
          <Link to={`/models/${modelId}`} className="text-accent underline-offset-4 hover:underline">
            {modelHandle}
          </Link>
        }
      />
      <Fact name="Dataset" value={`${datasetHandle}${column}`} />
      <Fact name="Hook points" value={settings && shortList(settings.points)} />
      <Fact name="Layers" value={settings?.layers || "all"} />
      <Fact
        name="Max samples"
        value={settings?.maxSamples ? settings.maxSamples.toLocaleString("en") : "all"}
      />
      <Fact
        name="Sequence length"
        value={settings?.sequenceLength ? plural(settings.sequenceLength, "token") : "the model’s context"}
      />
      <Fact name="Batch size" value={batchSize > 0 ? batchSize.toLocaleString("en") : "chosen"} />
      <Fact name="Positions" value={settings?.positions || "all"} />
      <Fact name="Number type" value={dtypeLabel(settings?.dtype ?? 0) || "f32"} />
      <Fact name="Packed" value={yes(settings?.pack)} />
      <Fact name="Long texts" value={settings?.split ? "go on in the next sample" : "are cut"} />
      <Fact name="Chat template" value={yes(settings?.chatTemplate)} />
      {settings?.noSpecialTokens && <Fact name="Special tokens" value="left out" />}
      {shards !== "" && <Fact name="Shard" value={shards} />}
    </dl>
  );
}

function Fact({ name, value }: { name: string; value: ReactNode }) {
  return (
    <div className="min-w-0">
      <dt className="text-xs text-ink-faint">{name}</dt>
      <dd className="wrap-anywhere">{value || "–"}</dd>
    </div>
  );
}
