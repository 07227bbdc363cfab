// Cloudhopper's DefaultSmppServer as an SMSC: `java -cp libs/*:classes Smsc PORT`. Prints, obeys, and takes on its input
// what jasmin.py does. A delivery that is not acknowledged comes again.

import com.cloudhopper.commons.util.windowing.WindowFuture;
import com.cloudhopper.smpp.PduAsyncResponse;
import com.cloudhopper.smpp.SmppServerConfiguration;
import com.cloudhopper.smpp.SmppServerHandler;
import com.cloudhopper.smpp.SmppServerSession;
import com.cloudhopper.smpp.SmppSessionConfiguration;
import com.cloudhopper.smpp.impl.DefaultSmppServer;
import com.cloudhopper.smpp.impl.DefaultSmppSessionHandler;
import com.cloudhopper.smpp.pdu.BaseBind;
import com.cloudhopper.smpp.pdu.BaseBindResp;
import com.cloudhopper.smpp.pdu.BindReceiver;
import com.cloudhopper.smpp.pdu.BindTransmitter;
import com.cloudhopper.smpp.pdu.DeliverSm;
import com.cloudhopper.smpp.pdu.PduRequest;
import com.cloudhopper.smpp.pdu.PduResponse;
import com.cloudhopper.smpp.pdu.SubmitSm;
import com.cloudhopper.smpp.pdu.SubmitSmResp;
import com.cloudhopper.smpp.pdu.Unbind;
import com.cloudhopper.smpp.tlv.Tlv;
import com.cloudhopper.smpp.type.Address;
import com.cloudhopper.smpp.type.SmppProcessingException;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;

public class Smsc implements SmppServerHandler {
    static final String USER = "shop", PASSWORD = "a-secret";
    static final int MAX_BINDS = 2;
    static final long AGAIN_MS = 200, ANSWER_MS = 10_000;
    static final int THROTTLED = 0x58, BAD_DESTINATION = 0x0B, BIND_FAILED = 0x0D, BAD_PASSWORD = 0x0E;
    // by the last two digits of the recipient, as smpp.py and jasmin.py say
    static final Map<Integer, Integer> REFUSALS = Map.of(2, THROTTLED, 3, 0x0A, 4, BAD_DESTINATION, 5, 0x08);
    static final int SILENT = 6, DIES = 7, BUSY_AT_THE_SECOND = 8, HALF = 9, BUSY_AT_FIRST = 91, UNBINDS = 92;
    static final Gson JSON = new GsonBuilder().serializeNulls().create();
    static final short PAYLOAD = 0x0424, RECEIPTED_ID = 0x001E, MESSAGE_STATE = 0x0427;

    final List<SmppServerSession> bound = new CopyOnWriteArrayList<>();
    final Map<Integer, Integer> busy = new HashMap<>(Map.of(BUSY_AT_THE_SECOND, 2, BUSY_AT_FIRST, 2)); // so many times
    final AtomicInteger taken = new AtomicInteger(), sessions = new AtomicInteger(), turn = new AtomicInteger();
    final ScheduledExecutorService later = Executors.newScheduledThreadPool(2);
    volatile long throttledUntil;

    /** One delivery of an MO or a DLR, which ends once. */
    record Attempt(JsonObject told, AtomicBoolean ended) {}

    static synchronized void say(Object... fields) {
        Map<String, Object> fact = new LinkedHashMap<>();
        for (int at = 0; at < fields.length; at += 2) fact.put((String) fields[at], fields[at + 1]);
        System.out.println(JSON.toJson(fact));
        System.out.flush();
    }

    public void sessionBindRequested(Long id, SmppSessionConfiguration asked, BaseBind bind)
            throws SmppProcessingException {
        if (!USER.equals(asked.getSystemId()) || !PASSWORD.equals(asked.getPassword()))
            throw new SmppProcessingException(BAD_PASSWORD);
        if (bound.size() >= MAX_BINDS) {
            say("kind", "refused");
            throw new SmppProcessingException(BIND_FAILED);
        }
    }

    public void sessionCreated(Long id, SmppServerSession session, BaseBindResp answer) {
        int number = sessions.incrementAndGet();
        bound.add(session);
        boolean receives = session.getBindType() != com.cloudhopper.smpp.SmppBindType.TRANSMITTER;
        say("kind", "bind", "system_id", USER, "receives", receives);
        session.serverReady(new DefaultSmppSessionHandler() {
            @Override
            public PduResponse firePduRequestReceived(PduRequest request) {
                if (request instanceof SubmitSm) return submitted(session, number, (SubmitSm) request);
                if (request instanceof Unbind) {
                    say("kind", "unbind", "session", number);
                    bound.remove(session);
                }
                return request.createResponse();
            }

            @Override
            public void fireExpectedPduResponseReceived(PduAsyncResponse heard) {
                answered(heard.getRequest(), heard.getResponse().getCommandStatus());
            }

            @Override
            public void firePduRequestExpired(PduRequest request) {
                answered(request, null);
            }

            @Override
            public void fireChannelUnexpectedlyClosed() {
                gone(session, number);
            }
        });
    }

    public void sessionDestroyed(Long id, SmppServerSession session) {
        bound.remove(session);
        for (WindowFuture<Integer, PduRequest, PduResponse> each : session.getSendWindow().createSortedSnapshot().values()) {
            answered(each.getRequest(), null);
        }
        session.destroy();
    }

    void gone(SmppServerSession session, int number) {
        bound.remove(session);
        say("kind", "gone", "session", number);
    }

    PduResponse submitted(SmppServerSession session, int number, SubmitSm pdu) {
        String to = pdu.getDestAddress().getAddress();
        SubmitSmResp answer = pdu.createResponse();
        if (System.nanoTime() < throttledUntil) {
            say("kind", "throttled", "to", to);
            answer.setCommandStatus(THROTTLED);
            return answer;
        }
        boolean headed = (pdu.getEsmClass() & 0x40) != 0;
        byte[] text = pdu.getShortMessage() == null ? new byte[0] : pdu.getShortMessage();
        Tlv payload = pdu.getOptionalParameter(PAYLOAD);
        int wanted = Integer.parseInt(to.substring(to.length() - 2));
        if (wanted == DIES) Runtime.getRuntime().halt(1);
        Integer status = status(wanted, headed && text[5] == 2);
        say("kind", "submit", "session", number, "to", to, "source", pdu.getSourceAddress().getAddress(),
            "source_ton", (int) pdu.getSourceAddress().getTon(), "esm_class", pdu.getEsmClass() & 0xFF,
            "data_coding", pdu.getDataCoding() & 0xFF, "receipt", pdu.getRegisteredDelivery() != 0,
            "text", HexFormat.of().formatHex(text),
            "payload", payload == null ? "" : HexFormat.of().formatHex(payload.getValue()));
        if (wanted == UNBINDS) later.schedule(() -> leave(session, number), 50, TimeUnit.MILLISECONDS);
        if (status == null) return null;
        answer.setCommandStatus(status);
        if (status == 0) answer.setMessageId("smsc-" + taken.incrementAndGet());
        return answer;
    }

    synchronized Integer status(int wanted, boolean second) {
        if (REFUSALS.containsKey(wanted)) return REFUSALS.get(wanted);
        if (wanted == SILENT) return null;
        if (second && wanted == HALF) return BAD_DESTINATION;
        if (busy.getOrDefault(wanted, 0) > 0 && (second || wanted == BUSY_AT_FIRST)) {
            busy.merge(wanted, -1, Integer::sum);
            return THROTTLED;
        }
        return 0;
    }

    void leave(SmppServerSession session, int number) {
        bound.remove(session);
        session.unbind(1000);
        say("kind", "gone", "session", number);
    }

    void deliver(JsonObject told) {
        List<SmppServerSession> now = List.copyOf(bound);
        SmppServerSession session = now.isEmpty() ? null : now.get(Math.floorMod(turn.getAndIncrement(), now.size()));
        if (session == null) {
            later.schedule(() -> deliver(told), AGAIN_MS, TimeUnit.MILLISECONDS);
            return;
        }
        Attempt attempt = new Attempt(told, new AtomicBoolean());
        try {
            DeliverSm pdu = new DeliverSm();
            pdu.setReferenceObject(attempt);
            pdu.setSourceAddress(new Address((byte) 1, (byte) 1, told.get("source").getAsString()));
            pdu.setDestAddress(new Address((byte) 0, (byte) 1, "36111"));
            boolean headed = told.has("headed") && told.get("headed").getAsBoolean();
            pdu.setEsmClass((byte) (told.has("receipt") ? 4 : headed ? 0x40 : 0));
            pdu.setDataCoding((byte) (told.has("coding") && told.get("coding").getAsString().equals("UCS2") ? 8 : 0));
            pdu.setShortMessage(HexFormat.of().parseHex(told.has("text") ? told.get("text").getAsString() : ""));
            if (told.has("receipt")) {
                byte[] name = (told.get("receipt").getAsString() + "\0").getBytes(StandardCharsets.US_ASCII);
                pdu.setOptionalParameter(new Tlv(RECEIPTED_ID, name));
                pdu.setOptionalParameter(new Tlv(MESSAGE_STATE, new byte[] {2}));
            }
            session.sendRequestPdu(pdu, ANSWER_MS, false);
        } catch (Exception error) { // the session ends, or its window is full
            if (!attempt.ended.getAndSet(true)) later.schedule(() -> deliver(told), AGAIN_MS, TimeUnit.MILLISECONDS);
        }
    }

    void answered(PduRequest<?> request, Integer status) {
        Attempt attempt = (Attempt) request.getReferenceObject();
        if (attempt == null || attempt.ended.getAndSet(true)) return;
        String word = status == null ? null : status == 0 ? "ESME_ROK" : String.format("0x%02x", status);
        say("kind", "delivered", "name", attempt.told.get("name").getAsString(), "status", word);
        if (status == null || status != 0)
            later.schedule(() -> deliver(attempt.told), AGAIN_MS, TimeUnit.MILLISECONDS);
    }

    void order(JsonObject told) {
        switch (told.get("order").getAsString()) {
            case "throttle" -> throttledUntil = System.nanoTime() + (long) (told.get("s").getAsDouble() * 1e9);
            case "unbind" -> bound.forEach(session -> later.execute(() -> leave(session, 0)));
            default -> throw new IllegalArgumentException();
        }
    }

    public static void main(String[] arguments) throws Exception {
        SmppServerConfiguration settings = new SmppServerConfiguration();
        settings.setHost("127.0.0.1");
        settings.setPort(Integer.parseInt(arguments[0]));
        settings.setMaxConnectionSize(50);
        settings.setNonBlockingSocketsEnabled(true);
        settings.setDefaultRequestExpiryTimeout(ANSWER_MS);
        settings.setDefaultWindowMonitorInterval(500);
        settings.setDefaultWindowSize(20);
        settings.setDefaultWindowWaitTimeout(1000);
        settings.setSystemId("cloudhopper");
        Smsc smsc = new Smsc();
        DefaultSmppServer server = new DefaultSmppServer(
            settings, smsc, Executors.newCachedThreadPool(), Executors.newScheduledThreadPool(1));
        server.start();
        say("kind", "up");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = input.readLine()) != null; ) {
            JsonObject told = JSON.fromJson(line, JsonObject.class);
            if (told.has("order")) smsc.order(told);
            else smsc.later.execute(() -> smsc.deliver(told));
        }
        Runtime.getRuntime().halt(0);
    }
}
