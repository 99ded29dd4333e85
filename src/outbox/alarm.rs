//! Tells of the broker's alarms: during one the connection stays, and nothing else would say why no result comes.

use lapin::Connection;
use tracing::{info, warn};

use super::AGAIN_EVERY;

/// Never ends by itself.
pub(super) async fn tell(connection: &Connection) {
    let mut told = false;
    loop {
        let blocked = connection.status().blocked();
        if blocked && !told {
            warn!(
                "the broker has an alarm, of memory or of disk, and takes nothing that is published; results wait in the ledger until it is over. `rabbitmqctl status` names it"
            );
        } else if told && !blocked {
            info!("the broker's alarm is over; publishing");
        }
        told = blocked;
        tokio::time::sleep(AGAIN_EVERY).await;
    }
}
