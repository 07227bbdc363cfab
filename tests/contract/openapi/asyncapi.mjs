// Parses an AsyncAPI document and its schemas: any remark, but of a newer version of AsyncAPI, is a failure.
import { Parser, fromFile } from "@asyncapi/parser";

const remarks = new Set(["asyncapi-latest-version"]);
const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const found = diagnostics.filter((each) => !remarks.has(each.code));
for (const each of found) console.error(`${each.path.join("/")}: ${each.message} (${each.code})`);
if (document === undefined || found.length > 0) process.exit(1);
const many = (list) => list.all().length;
console.log(`${many(document.channels())} channels, ${many(document.operations())} operations, ${many(document.messages())} messages`);
