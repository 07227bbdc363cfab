// The npm package smpp as an SMSC: `node smsc.js PORT`. Prints, and takes on its input, what jasmin.py does. It takes
// every message, names the parts of a text one by one, and delivers again what is not acknowledged.
const readline = require("readline");
const smpp = require("smpp");

const AGAIN_MS = 200;
const ANSWER_MS = 10000; // the package waits for ever: an SMSC ends a session that leaves a delivery unanswered
const bound = new Set();
let taken = 0;
let sessions = 0;
let throttledUntil = 0;

const say = (fact) => process.stdout.write(JSON.stringify(fact) + "\n");

const server = smpp.createServer({}, (session) => {
  const number = ++sessions;
  session.setMaxListeners(0); // one for each delivery without an answer
  const bind = (pdu) => {
    if (pdu.system_id !== "shop" || pdu.password !== "a-secret") {
      session.send(pdu.response({ command_status: smpp.ESME_RINVPASWD }));
      return;
    }
    session.send(pdu.response());
    bound.add(session);
    say({ kind: "bind", system_id: pdu.system_id, receives: true });
  };
  session.on("bind_transceiver", bind);
  session.on("enquire_link", (pdu) => session.send(pdu.response()));
  session.on("submit_sm", (pdu) => {
    if (Date.now() < throttledUntil) {
      say({ kind: "throttled", to: pdu.destination_addr });
      session.send(pdu.response({ command_status: smpp.ESME_RTHROTTLED }));
      return;
    }
    const { message, udh } = pdu.short_message;
    say({
      kind: "submit",
      session: number,
      to: pdu.destination_addr,
      source: pdu.source_addr,
      data_coding: pdu.data_coding,
      receipt: pdu.registered_delivery,
      part: udh ? Array.from(udh[0].subarray(-3)) : [],
      text: Buffer.from(message || "").toString("hex"),
    });
    session.send(pdu.response({ message_id: `npm-${++taken}` }));
  });
  session.on("unbind", (pdu) => {
    say({ kind: "unbind", session: number });
    session.send(pdu.response());
    session.close();
  });
  session.on("close", () => bound.delete(session));
  session.on("error", () => bound.delete(session));
});

const deliver = (told) => {
  const [session] = bound;
  const again = () => setTimeout(deliver, AGAIN_MS, told);
  if (session === undefined) {
    again();
    return;
  }
  const octets = Buffer.from(told.text || "", "hex");
  const head = told.headed ? octets[0] + 1 : 0;
  const fields = {
    source_addr: told.source,
    source_addr_ton: 1,
    source_addr_npi: 1,
    destination_addr: "36111",
    esm_class: told.receipt ? 4 : told.headed ? 0x40 : 0,
    data_coding: told.coding === "UCS2" ? 8 : 0,
    short_message: told.headed ? { udh: octets.subarray(0, head), message: octets.subarray(head) } : octets,
  };
  if (told.receipt) {
    Object.assign(fields, { receipted_message_id: told.receipt, message_state: 2 });
  }
  let ended = false;
  const late = setTimeout(() => session.destroy(), ANSWER_MS);
  const ends = () => {
    const first = !ended;
    ended = true;
    clearTimeout(late);
    return first;
  };
  session.deliver_sm(fields, (pdu) => {
    if (!ends()) return;
    say({ kind: "delivered", name: told.name, status: pdu.command_status === 0 ? "ESME_ROK" : String(pdu.command_status) });
    if (pdu.command_status !== 0) again();
  });
  session.once("close", () => ends() && again());
};

const order = (told) => {
  if (told.order === "throttle") throttledUntil = Date.now() + 1000 * told.s;
  else for (const session of bound) session.unbind(() => session.close());
};

const told = (line) => (line.order ? order(line) : deliver(line));
readline.createInterface({ input: process.stdin }).on("line", (line) => told(JSON.parse(line))).on("close", () => process.exit());
server.listen(Number(process.argv[2]), "127.0.0.1", () => say({ kind: "up" }));
