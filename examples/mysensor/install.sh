#!/bin/sh
# Give the box the settings of the daemon, unless it has some.
set -eu

if [ ! -e /etc/mysensor.conf ]; then
    cp mysensor.conf /etc/.mysensor.conf.new
    mv /etc/.mysensor.conf.new /etc/mysensor.conf
    echo "Wrote the settings of the sensor to /etc/mysensor.conf."
fi
