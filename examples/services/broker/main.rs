//! A broker for the example `consumer`, that sends an order every 100 ms.

mod broker;

use std::{thread, time::Duration};

fn main() -> std::io::Result<()> {
    let broker = broker::Broker::start("127.0.0.1:5672")?;
    println!("listening on {}", broker.address);
    for order in 1_u64.. {
        // Each order begins a trace of its own.
        broker.publish(format!("00-{order:032x}-{order:016x}-01"), format!("order {order}"));
        thread::sleep(Duration::from_millis(100));
        if order % 50 == 0 {
            let (messages, queued) = broker.messages();
            let acknowledged: usize = messages.iter().map(|message| message.acknowledged).sum();
            let handed_back: usize = messages.iter().map(|message| message.handed_back).sum();
            let redelivered = messages.iter().filter(|message| message.deliveries > 1).count();
            let (in_flight, _) = broker.in_flight();
            println!(
                "{acknowledged} acknowledged, {in_flight} in flight, {} queued, {handed_back} handed back, {redelivered} redelivered",
                queued.len()
            );
        }
    }
    Ok(())
}
