// Speaks to a gateway through types that openapi-typescript generated from its document: node use.js URL KEY IMAGE...
// What has the wrong type does not compile; what is said under @ts-expect-error must not.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>): void => undefined;

const [url, key, ...images] = process.argv.slice(2) as [string, string, ...string[]];
const client = createClient<paths, "application/json" | "application/problem+json">({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });

const { data: embedded, error } = await client.POST("/embed", {
  body: { images: images.map((b64) => ({ b64 })), normalize: true },
});
if (!embedded) throw new Error(error.detail);
same<typeof embedded, components["schemas"]["EmbedAnswer"]>(true);
const vectors = embedded.embeddings.map((one) => one.vector);
same<typeof vectors, (number[] | string)[]>(true);
const hits: ("hit" | "miss" | "coalesced")[] = embedded.embeddings.map((one) => one.cache);

// @ts-expect-error a misspelt option
const misspelt: components["schemas"]["EmbedRequest"] = { image: "", normalise: true };
// @ts-expect-error no image
const empty: components["schemas"]["EmbedRequest"] = { normalize: true };

const { data: openai } = await client.POST("/v1/embeddings", {
  body: { model: "lite0", input: images.map((image) => ({ image })), encoding_format: "float" },
});
if (!openai) throw new Error("no embeddings");
const others = openai.data.map((one) => one.embedding);
same<typeof others, (number[] | string)[]>(true);
const tokens: number = openai.usage.total_tokens;

const { data: models } = await client.GET("/models");
if (!models) throw new Error("no models");
const shapes = models.models.map((one) => one.manifest?.outputs.map((output) => output.shape));
same<typeof shapes, (number[][] | undefined)[]>(true);

const refused = await client.POST("/embed", { body: { image: "no base64" } });
const title: string | undefined = refused.error?.title;

console.log(JSON.stringify({ vectors, others, tokens, hits, shapes, title, misspelt, empty, default: models.default }));
