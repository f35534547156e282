//! What a server may send, as a client decodes it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    corelane_fuzz::mqtt::decode_stream(input, engine_mqtt::Direction::FromServer);
});
