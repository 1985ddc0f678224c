// Grafana's published types, as they apply to plain JSON: enumerations are their literals, and a panel's options follow from its
// type. The frame is @grafana/schema's, of the version that docker-compose.yml names; panels and queries are the foundation SDK's.
import type { Dashboard as Frame } from "@grafana/schema";
import type * as dashboard from "@grafana/grafana-foundation-sdk/dashboard";
import type * as heatmap from "@grafana/grafana-foundation-sdk/heatmap";
import type * as prometheus from "@grafana/grafana-foundation-sdk/prometheus";
import type * as stat from "@grafana/grafana-foundation-sdk/stat";
import type * as statetimeline from "@grafana/grafana-foundation-sdk/statetimeline";
import type * as table from "@grafana/grafana-foundation-sdk/table";
import type * as timeseries from "@grafana/grafana-foundation-sdk/timeseries";

type Plain<T> = 0 extends 1 & T
  ? any
  : T extends string
    ? `${T}`
    : T extends number
      ? `${T}` extends `${infer N extends number}`
        ? N
        : T
      : T extends boolean | null | undefined
        ? T
        : T extends readonly (infer Item)[]
          ? Plain<Item>[]
          : { [K in keyof T as T[K] extends Function ? never : K]: Plain<T[K]> };

type Target = Omit<Plain<prometheus.Dataquery>, "refId"> & { refId: string };

// Grafana writes null for the first threshold; the SDK's type says so, too.
type Field<Custom> = Omit<Plain<dashboard.FieldConfig>, "custom"> & { custom?: Plain<Custom> };

type Panel<Type extends string, Options, Custom> = Omit<
  Plain<dashboard.Panel>,
  "type" | "targets" | "options" | "fieldConfig" | "title" | "description"
> & {
  type: Type;
  // Each panel says what it shows.
  title: string;
  description: string;
  targets: Target[];
  options: Plain<Options>;
  fieldConfig: { defaults: Field<Custom>; overrides: Plain<dashboard.FieldConfigSource>["overrides"] };
};

type Nothing = Record<string, never>;

type AnyPanel =
  | Panel<"stat", stat.Options, Nothing>
  | Panel<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | Panel<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Panel<"state-timeline", statetimeline.Options, statetimeline.FieldConfig>
  | Panel<"table", Partial<table.Options>, Partial<table.FieldConfig>>
  | (Omit<Plain<dashboard.RowPanel>, "type"> & { type: "row" });

export type Dashboard = Omit<Plain<Frame>, "panels" | "templating" | "annotations"> & {
  panels: AnyPanel[];
  templating: { list: Plain<dashboard.VariableModel>[] };
  annotations: { list: Plain<dashboard.AnnotationQuery>[] };
};
