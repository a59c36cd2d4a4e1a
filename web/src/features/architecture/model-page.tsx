// What a model is made of: its figures, its stack, its layers with tensors and hook points, and its config.
import { useQuery } from "@connectrpc/connect-query";
import { ArrowLeft } from "lucide-react";
import { useId } from "react";
import { Link, useParams } from "react-router";
import { useLive } from "../../api/context";
import { InspectionService, type ModelDescription } from "../../gen/millm/inspection/v1/inspection_pb";
import { formatBytes, formatCount } from "../../ui/format";
import { LoadFailure } from "../../ui/load-failure";
import { StatTile } from "../../ui/stat-tile";
import { ConfigView } from "./config-view";
import { HookTable } from "./hook-table";
import { LayerList } from "./layer-list";
import { ModuleSection } from "./module-section";
import { StackPicture } from "./stack-picture";

export function ModelPage() {
  const { id = "" } = useParams();
  const { models } = useLive();
  const { data, error, isFetching, refetch } = useQuery(
    InspectionService.method.describeModel,
    { model: `models/${id}` },
    { staleTime: Number.POSITIVE_INFINITY },
  );
  // A name may change while the page is open.
  const handle = models.find((model) => String(model.id) === id)?.handle ?? data?.handle;
  return (
    <div className="flex flex-col gap-6">
      <header className="flex flex-col gap-1">
        <Link
          to="/models"
          className="inline-flex items-center gap-1 self-start text-sm text-ink-soft hover:text-ink max-sm:min-h-11"
        >
          <ArrowLeft aria-hidden className="size-4" />
          Models
        </Link>
        <h1 className="text-lg font-semibold wrap-anywhere">{handle ?? `Model ${id}`}</h1>
        {data?.architecture && (
          <p className="text-sm text-ink-soft">
            {data.architecture.name}
            {data.architecture.family !== "" && ` • ${data.architecture.family}`}
          </p>
        )}
      </header>
      {data ? (
        <Description model={data} />
      ) : error ? (
        <LoadFailure cause={error} busy={isFetching} onRetry={() => void refetch()} />
      ) : (
        <Placeholder />
      )}
    </div>
  );
}

function Placeholder() {
  return (
    <div aria-busy className="flex flex-col gap-4">
      <p className="sr-only" role="status">
        Reading the model…
      </p>
      <div className="card h-20 animate-pulse" />
      <div className="card h-72 animate-pulse" />
    </div>
  );
}

function Description({ model }: { model: ModelDescription }) {
  return (
    <>
      <Tiles model={model} />
      <StackPicture model={model} />
      <Section title="Layers">
        <LayerList layers={model.layers} />
      </Section>
      <Section title="Outside the layers">
        <div className="card flex flex-col divide-y divide-line">
          {model.modules.map((module) => (
            <ModuleSection key={module.name} module={module} />
          ))}
          <HookTable points={model.hookPoints} />
        </div>
      </Section>
      <Section title="Configuration">
        <ConfigView json={model.configJson} />
      </Section>
    </>
  );
}

function Section({ title, children }: { title: string; children: React.ReactNode }) {
  const titleId = useId();
  return (
    <section aria-labelledby={titleId}>
      <h2 id={titleId} className="mb-3 font-semibold">
        {title}
      </h2>
      {children}
    </section>
  );
}

function Tiles({ model }: { model: ModelDescription }) {
  const { architecture, parameterCount, weightsBytes } = model;
  const number = (n: number | undefined) => (n ? n.toLocaleString("en") : "");
  const { heads = 0, kvHeads = 0 } = architecture ?? {};
  return (
    <dl className="grid grid-cols-2 gap-3 sm:grid-cols-4" data-testid="stats">
      <StatTile name="Layers" value={number(architecture?.layers || model.layers.length)} />
      <StatTile name="Hidden size" value={number(architecture?.hiddenSize)} />
      <StatTile
        name="Attention heads"
        value={number(heads)}
        note={kvHeads > 0 && kvHeads !== heads ? `${kvHeads} for keys and values` : ""}
      />
      <StatTile
        name="Parameters"
        value={parameterCount > 0n ? formatCount(Number(parameterCount)) : ""}
        note={parameterCount >= 1000n ? parameterCount.toLocaleString("en") : ""}
      />
      <StatTile name="Weights" value={weightsBytes > 0n ? formatBytes(Number(weightsBytes)) : ""} />
      <StatTile name="MLP size" value={number(architecture?.intermediateSize)} />
      <StatTile name="Vocabulary" value={number(architecture?.vocabularySize)} note="tokens" />
      <StatTile name="Context" value={number(architecture?.contextLength)} note="tokens" />
    </dl>
  );
}
