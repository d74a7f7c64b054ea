// A producer or a consumer of amqp091-go as anybody writes it: go_client ROLE URL QUEUE PREFETCH
package main

import (
	"context"
	"encoding/binary"
	"log"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func produce(channel *amqp.Channel, queue string) {
	check(channel.Confirm(false))
	body := make([]byte, 256)
	waiting := make([]*amqp.DeferredConfirmation, 0, 100)
	for number := uint32(0); ; {
		for len(waiting) < 100 {
			binary.BigEndian.PutUint32(body, number)
			number++
			message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}
			confirmation, err := channel.PublishWithDeferredConfirmWithContext(
				context.Background(), "", queue, false, false, message)
			check(err)
			waiting = append(waiting, confirmation)
		}
		for _, confirmation := range waiting {
			confirmation.Wait()
		}
		waiting = waiting[:0]
	}
}

func consume(channel *amqp.Channel, queue string, prefetch int) {
	check(channel.Qos(prefetch, 0, false))
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	check(err)
	for delivery := range deliveries {
		time.Sleep(10 * time.Millisecond)
		check(delivery.Ack(false))
	}
}

func main() {
	role, url, queue := os.Args[1], os.Args[2], os.Args[3]
	prefetch, err := strconv.Atoi(os.Args[4])
	check(err)
	connection, err := amqp.Dial(url)
	check(err)
	channel, err := connection.Channel()
	check(err)
	if role == "producer" {
		produce(channel, queue)
	} else {
		consume(channel, queue, prefetch)
	}
}
